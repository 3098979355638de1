"""The RowStore interface: what tables, trainer and publisher know of where rows live.

Shape suffixes: N keys asked for (repeats allowed), U unique keys, W row width, S optimizer-state width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError, unknown
from recsys.fields import build
from recsys.hashing import Floats, Keys
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer, build_optimizer
from recsys.rows.policies import Admission, Eviction, ImportanceAdmission, LearnedStep, build_admission

DENSE = "dense"  # the row group of dense parameters: see recsys.ps.dense
STATISTICS = "statistics"  # that of what batch normalisation remembers
WHOLE = (DENSE, STATISTICS)  # read and written as one: those of two times make no model

Cursor = tuple[int, ...]  # one sequence number a shard
Gradients = tuple[Keys, Floats] | tuple[Keys, Floats, npt.NDArray[np.int64]]  # with how often each key occurred
Sequences = npt.NDArray[np.int64]
RowFormat = Literal["float32", "float16", "bfloat16", "int8", "int16"]
StoredFormat = Literal["float32", "float16", "bfloat16", "int8", "int16", "lsq8"]  # the last with ``learned_step``


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows of one width that share an optimizer and an initial distribution.

    Keys are any int64, in a collisionless map that grows with them; or, with ``num_rows``, integers in
    [0, num_rows) in an array. ``absent`` says what a key without a row reads, in training and in serving alike: the
    initial value that its row would start from, or zeros, or (``missing``) NaN, for tables that read another instead.
    A row comes into being at its first push, or when ``admission`` lets it; it goes when no push has touched it for
    more than ``ttl_seconds`` of event time (looked for a few dozen times in that time), or when ``eviction`` needs its
    room. ``row_format`` is how rows are kept; those of few bits are rounded at random, and int8 and int16 have a scale
    for each row. In ``lsq8`` a row's last column is its scale, which a push learns, whatever gradient it is given.
    Optimizer state is float32.
    """

    name: str
    width: int
    optimizer: Optimizer
    initial: Initial = field(default_factory=Initial)
    seed: int = 0
    num_rows: int | None = None
    absent: Literal["initial", "zeros", "missing"] = "initial"
    row_format: StoredFormat = "float32"
    learned_step: LearnedStep | None = None
    admission: Admission | None = None
    ttl_seconds: float | None = None
    eviction: Eviction | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"row group {self.name!r}: width {self.width} must be at least 1")
        if self.num_rows is not None and self.num_rows < 1:
            raise ConfigError(f"row group {self.name!r}: num_rows {self.num_rows} must be at least 1")
        if self.absent not in ("initial", "zeros", "missing"):
            raise ConfigError(f"row group {self.name!r}: absent {self.absent!r} must be initial, zeros or missing")
        if self.row_format not in get_args(StoredFormat):
            raise unknown(f"row group {self.name!r}: row_format", self.row_format, get_args(StoredFormat))
        if (self.row_format == "lsq8") != (self.learned_step is not None) or (self.learned_step and self.width < 2):
            raise ConfigError(
                f"row group {self.name!r}: row_format {self.row_format!r}, learned_step {self.learned_step} and width "
                f"{self.width}; lsq8 needs a learned_step and a column for it, the others have none"
            )
        if self.ttl_seconds is not None and not self.ttl_seconds > 0:
            raise ConfigError(f"row group {self.name!r}: ttl_seconds {self.ttl_seconds} must be above 0")
        if self.eviction is not None and self.num_rows is not None:
            raise ConfigError(
                f"row group {self.name!r}: num_rows is given, so it can not grow past an eviction's; leave one out"
            )

        weighs = isinstance(self.admission, ImportanceAdmission)
        if weighs != (self.eviction is not None and self.eviction.kind == "importance"):
            raise ConfigError(
                f"row group {self.name!r}: admission {self.admission} and eviction {self.eviction}; of importance are "
                "both or none"
            )

    @property
    def counts_occurrences(self) -> bool:
        """Whether a push should say how often a key occurred, where repeated keys were summed before."""
        if isinstance(self.admission, ImportanceAdmission):
            return False
        return self.admission is not None or (self.eviction is not None and self.eviction.kind == "lfu")

    def absent_rows(self, keys_N: Keys) -> Floats:
        """What keys without a row read, float32 of shape (N, width)."""
        if self.absent != "initial":
            return np.full((len(keys_N), self.width), 0 if self.absent == "zeros" else np.nan, np.float32)
        return self.initial_rows(keys_N)

    def initial_rows(self, keys_N: Keys) -> Floats:
        """What rows start from, float32 of shape (N, width)."""
        rows_NW = self.initial.rows(keys_N, self.width, self.seed)
        if self.learned_step is not None:
            rows_NW[:, -1] = self.learned_step.initial
        return rows_NW

    def checked_keys(self, keys_N: Keys) -> Keys:
        """Keys that this group can hold, contiguous; DataError for another dtype or shape, or outside the array."""
        if keys_N.dtype != np.int64 or keys_N.ndim != 1:
            raise DataError(f"row group {self.name!r}: keys are {keys_N.dtype} {keys_N.shape}, must be one int64 array")
        if self.num_rows is not None and len(keys_N):
            outside = (keys_N < 0) | (keys_N >= self.num_rows)
            if outside.any():
                raise DataError(
                    f"row group {self.name!r}: row key {keys_N[outside][0]} is outside [0, {self.num_rows}); raise "
                    "the feature's num_embeddings, or use a table kind that takes any id (table=collisionless, "
                    "hash or unified)"
                )
        return np.ascontiguousarray(keys_N)

    def checked_gradients(self, num_keys: int, gradients_NW: Floats) -> Floats:
        """Finite float32 gradients of shape (num_keys, width), contiguous; DataError for others."""
        gradients_NW = self.shaped_gradients(num_keys, gradients_NW)
        self.check_finite(gradients_NW)
        return gradients_NW

    def shaped_gradients(self, num_keys: int, gradients_NW: Floats) -> Floats:
        """Float32 gradients of shape (num_keys, width), contiguous; DataError for others."""
        shape = (num_keys, self.width)
        if gradients_NW.dtype != np.float32 or gradients_NW.shape != shape:
            raise DataError(
                f"row group {self.name!r}: gradients are {gradients_NW.dtype} {gradients_NW.shape}, must be float32 "
                f"{shape}"
            )
        return np.ascontiguousarray(gradients_NW)

    def check_finite(self, gradients_NW: Floats) -> None:
        """Raise DataError where a gradient is NaN or infinite."""
        # The sum is quick, and finite unless a gradient is not, or they are huge.
        if not np.isfinite(gradients_NW.sum(dtype=np.float32)) and not np.isfinite(gradients_NW).all():
            raise DataError(f"row group {self.name!r}: a gradient is NaN or infinite; lower the learning rate or clip")

    def checked_counts(self, num_keys: int, counts_N: Sequences) -> Sequences:
        """Occurrences of each key, int64 of at least 1; DataError for others."""
        if counts_N.dtype != np.int64 or counts_N.shape != (num_keys,) or (counts_N < 1).any():
            raise DataError(f"row group {self.name!r}: counts must be int64 ({num_keys},) of at least 1")
        return np.ascontiguousarray(counts_N)

    def to_json(self) -> dict[str, Any]:
        """The group as plain values, for manifests."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "RowGroup":
        """The group that ``to_json`` described."""
        parts = dict(fields)
        parts["optimizer"] = build_optimizer(parts["optimizer"])
        parts["initial"] = Initial(**parts["initial"])
        if parts.get("admission") is not None:
            parts["admission"] = build_admission(parts["admission"])
        if parts.get("learned_step") is not None:
            parts["learned_step"] = build(LearnedStep, parts["learned_step"], "learned_step")
        if parts.get("eviction") is not None:
            parts["eviction"] = build(Eviction, parts["eviction"], "eviction")
        return cls(**parts)


class Upserts(NamedTuple):
    """Touched rows of one group, each with the sequence number of its last change."""

    keys_U: Keys
    rows_UW: Floats
    sequences_U: Sequences


class Deletes(NamedTuple):
    """Deleted keys of one group, each with the sequence number of its deletion."""

    keys_U: Keys
    sequences_U: Sequences


@dataclass(frozen=True)
class Changes:
    """What changed since a consumer's last acknowledgement; replaying it is harmless."""

    cursor: Cursor
    upserts: dict[str, Upserts]
    deletes: dict[str, Deletes]
    complete: frozenset[str] = frozenset()  # groups whose upserts are all their rows: any other that is held is gone


@dataclass(frozen=True)
class GroupSnapshot:
    """All rows of one group at one instant, with everything their optimizer needs to go on."""

    keys_U: Keys
    rows_UW: Floats
    state: dict[str, Floats]
    event_times_U: npt.NDArray[np.int64]
    sequences_U: Sequences
    time_ms: int = -1  # the latest event time that the group has seen
    num_steps: int = 0  # of the group's optimizer
    own_steps_U: Sequences | None = None  # the last of them that each row has had, where untouched rows miss something
    candidate_keys_C: Keys = field(default_factory=lambda: np.empty(0, np.int64))  # ids that wait for admission
    candidate_counts_C: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, np.uint8))  # uint8, or scores
    candidate_errors_C: Floats = field(default_factory=lambda: np.empty(0, np.float32))  # of scores
    deleted_keys_D: Keys = field(default_factory=lambda: np.empty(0, np.int64))  # of an increment: gone since its base

    def select(self, mask_of: Callable[[Keys], npt.NDArray[np.bool_]]) -> "GroupSnapshot":
        """What belongs to the keys that ``mask_of`` chooses: how a snapshot is split over shards."""
        mask_U, mask_C, mask_D = (mask_of(k) for k in (self.keys_U, self.candidate_keys_C, self.deleted_keys_D))
        return replace(
            self,
            keys_U=self.keys_U[mask_U],
            rows_UW=self.rows_UW[mask_U],
            state={name: values_US[mask_U] for name, values_US in self.state.items()},
            event_times_U=self.event_times_U[mask_U],
            sequences_U=self.sequences_U[mask_U],
            own_steps_U=None if self.own_steps_U is None else self.own_steps_U[mask_U],
            candidate_keys_C=self.candidate_keys_C[mask_C],
            candidate_counts_C=self.candidate_counts_C[mask_C],
            candidate_errors_C=self.candidate_errors_C[mask_C[: len(self.candidate_errors_C)]],
            deleted_keys_D=self.deleted_keys_D[mask_D],
        )


@dataclass(frozen=True)
class Snapshot:
    """The whole store at one instant, or with ``since`` what changed after that cursor; restores onto any split."""

    cursor: Cursor
    groups: dict[str, GroupSnapshot]
    since: Cursor | None = None


StreamPosition = Mapping[int, tuple[int, int]]  # by partition: see recsys.batches.batches


class RowReader(ABC):
    """The read side of a row store: all that serving needs."""

    @abstractmethod
    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """Rows of int64 keys by group: float32 (N, W), writable, in the order asked; creates nothing.

        Raises ConfigError for an unknown group, DataError for a key outside an array group.
        """


class RowStore(RowReader):
    """Named row groups: pulled by key, changed by pushing gradients, watched by consumers."""

    groups: Mapping[str, RowGroup]

    def prefetch(self, keys: Mapping[str, Keys]) -> None:
        """Say what will be pulled after the next push: a store that is far away begins to read.

        That pull, of this very ``keys``, gives what it would have given anyway.
        """

    @abstractmethod
    def push(
        self,
        gradients: Mapping[str, Gradients],
        event_time_ms: int,
        *,
        weight: float = 1.0,
        position: StreamPosition | None = None,
    ) -> None:
        """Apply gradients (N, W) by group; repeated keys are summed first, absent rows created where admitted.

        A group's event time is the latest ``event_time_ms`` so far; the touched rows take it. A third array may say
        how often each key occurred, for who sums repeated keys before: admission and LFU count occurrences. A wrong
        dtype or width, or a gradient that is not finite, raises DataError and leaves the store as it was.

        Where several workers' pushes are one step, ``weight`` is what this one counts in their mean, and ``position``,
        where this worker's stream stands after it, is kept with the rows: a cut of the store is one of the streams.
        """

    def retune(self, groups: Sequence[RowGroup]) -> None:
        """Go on with other learning rates from the next step on: the same groups, but for what their optimizers say.

        ConfigError where this store can not, or an optimizer keeps other state.
        """
        raise ConfigError(
            f"rows in {type(self).__name__} keep their learning rates; use store=local, or a schedule of the optimizer"
        )

    def flush(self) -> None:
        """Return when every push so far has been applied; they are by default."""

    @abstractmethod
    def delete(self, keys: Mapping[str, Keys]) -> None:
        """Remove rows and their optimizer state; absent keys are ignored."""

    @abstractmethod
    def changes(self, consumer: str, complete: Collection[str] = ()) -> Changes:
        """Everything touched or deleted since ``consumer`` last acknowledged (at first: everything).

        Of the groups in ``complete``, and of those where more was deleted since than is remembered, all rows.
        """

    @abstractmethod
    def acknowledge(self, consumer: str, cursor: Cursor) -> None:
        """Record that ``consumer`` has safely stored the changes up to ``cursor``."""

    @abstractmethod
    def snapshot(self, since: Cursor | None = None) -> Snapshot:
        """A copy of everything, of one instant; or of what changed after an earlier snapshot's cursor.

        An increment needs the deletions since: who takes some acknowledges each snapshot when it is safe, as a consumer
        of its own. Where they are not remembered, the snapshot is whole (its ``since`` is None).
        """

    @abstractmethod
    def restore(self, snapshot: Snapshot) -> None:
        """Put back the groups that ``snapshot`` holds, replacing what they held; other groups stay.

        To consumers that watch the store this is a change: restored rows count as touched, rows that are gone as
        deleted. Raises ConfigError or DataError, changing nothing, for a snapshot of other groups or widths.
        """

    @abstractmethod
    def num_rows(self) -> dict[str, int]:
        """Rows that exist, by group."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held: rows, optimizer state, keys and bookkeeping."""

    def total_bytes(self) -> int:
        """``nbytes`` as a call, for those who can only call."""
        return self.nbytes


def check_whole(snapshot: Snapshot) -> None:
    """Raise DataError for an increment, which says nothing of the rows that it leaves out."""
    if snapshot.since is not None:
        raise DataError(f"this snapshot holds what changed after {snapshot.since}; apply it to that one, then restore")


def by_name(groups: Sequence[RowGroup]) -> dict[str, RowGroup]:
    """Groups by name; two groups of one name must be equal (tables may share a group)."""
    named: dict[str, RowGroup] = {}
    for group in groups:
        if named.setdefault(group.name, group) != group:
            raise ConfigError(f"two different row groups are named {group.name!r}; rename one table")
    return named


def fresh_rows(group: RowGroup, keys_U: Keys, rows_UW: Floats) -> GroupSnapshot:
    """Given rows with untouched optimizer state, as a snapshot to restore."""
    num_rows = len(keys_U)
    state = {
        name: np.full((num_rows, width), group.optimizer.initial_state(name), np.float32)
        for name, width in group.optimizer.state_widths(group.width).items()
    }
    never = np.zeros(num_rows, np.int64)
    # sequence 1: a consumer that has seen nothing is sent these rows too
    return GroupSnapshot(keys_U, rows_UW, state, never, never + 1)
