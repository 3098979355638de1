"""A row group as a plain dict: what a store must do, said as simply as it can be."""

from collections import Counter
from dataclasses import dataclass, field

from recsys.hashing import Floats, Keys
from recsys.rows.initial import Initial
from recsys.rows.optimizers import SGD
from recsys.rows.policies import FrequencyAdmission
from recsys.rows.store import RowGroup

OCCURRENCES, TTL_SECONDS, RATE = 2, 8, 0.5
SWEEP_MS = 1000 * TTL_SECONDS // 64


def guarded_group(candidate_bytes: int) -> RowGroup:
    """Admission and expiry on. Gradients that are small whole numbers make every sum exact."""
    return RowGroup(
        name="t",
        width=1,
        optimizer=SGD(learning_rate=RATE),
        initial=Initial(scale=0.0),
        seed=0,
        admission=FrequencyAdmission(occurrences=OCCURRENCES, max_bytes=candidate_bytes),
        ttl_seconds=TTL_SECONDS,
    )


@dataclass
class Model:
    """Rows by key, each with its event time, and occurrences of keys without a row."""

    rows: dict[int, tuple[float, int]] = field(default_factory=dict)
    waiting: Counter[int] = field(default_factory=Counter)
    clock_ms: int = -1
    swept: int = -1

    def push(self, keys_N: Keys, gradients_N: Floats, time_ms: int) -> None:
        """Rows that expired leave; then gradients are summed by key, and keys that have occurred enough get a row."""
        self.clock_ms = max(self.clock_ms, time_ms)
        if self.clock_ms // SWEEP_MS != self.swept:
            self.swept = self.clock_ms // SWEEP_MS
            oldest = self.clock_ms - 1000 * TTL_SECONDS
            self.rows = {key: row for key, row in self.rows.items() if row[1] >= oldest}
        sums: dict[int, float] = {}
        counts: Counter[int] = Counter()
        for key, gradient in zip(keys_N.tolist(), gradients_N.tolist(), strict=True):
            sums[key] = sums.get(key, 0.0) + gradient
            counts[key] += 1
        for key, gradient in sums.items():
            value = self.rows[key][0] if key in self.rows else self._admitted(key, counts[key])
            if value is not None:
                self.rows[key] = (value - RATE * gradient, self.clock_ms)

    def _admitted(self, key: int, count: int) -> float | None:
        """The value that a new row begins with, None for a key that waits on."""
        if self.waiting[key] + count < OCCURRENCES:
            self.waiting[key] += count
            return None
        del self.waiting[key]
        return 0.0

    def delete(self, keys_N: Keys) -> None:
        """Rows go; keys that wait go on waiting."""
        for key in keys_N.tolist():
            self.rows.pop(key, None)

    def pull(self, keys_N: Keys) -> list[float]:
        """Values; a key without a row reads the initial one, 0."""
        return [self.rows[key][0] if key in self.rows else 0.0 for key in keys_N.tolist()]

    def copy(self) -> "Model":
        """The same, by itself."""
        return Model(dict(self.rows), Counter(self.waiting), self.clock_ms, self.swept)
