"""Which ids get a row, which rows have to leave, and how a step is learned: what a row group is told.

Plain values without numba, for serving reads them too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Between, build, choose

SKETCH_CELLS = 4  # ids of a bucket of HotSketch
SKETCH_BUCKET_BYTES = 16 * SKETCH_CELLS


@dataclass(frozen=True, kw_only=True)
class FrequencyAdmission:
    """A row at the N-th occurrence of its id in pushes; repeats within a push count. ``occurrences=1`` admits at once.

    Ids that wait are counted in ``max_bytes`` of each row group and shard, 64 bytes for seven of them; where ids are
    more than fit, those seen least lose their count. Monolith (§3.1) filters so too; its released filter admits one
    occurrence late, and counts to 15.
    """

    kind: Literal["frequency"] = "frequency"
    occurrences: Annotated[int, Between(1, 255)]
    max_bytes: Annotated[int, AtLeast(64)] = 2 * 2**20


@dataclass(frozen=True, kw_only=True)
class ProbabilisticAdmission:
    """A row at any occurrence with ``probability``, drawn from (seed, key, step); the others leave no trace."""

    kind: Literal["probabilistic"] = "probabilistic"
    probability: Annotated[float, Above(0), Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class ImportanceAdmission:
    """A row for an id whose importance is above ``threshold`` while there is room, later above that of another's row.

    Importance is the sum of the norms of an id's gradients, each of which counts half after ``half_life_steps``. Ids
    that wait are in ``max_bytes`` of each row group and shard, 64 bytes for four of them; where ids are more than fit,
    those of the least importance make room. Goes with ``Eviction(kind="importance")``, and asks for the gradient of an
    id that has no row, too.
    """

    kind: Literal["importance"] = "importance"
    threshold: Annotated[float, AtLeast(0)] = 0.0
    half_life_steps: Annotated[int, AtLeast(1)] | None = None
    max_bytes: Annotated[int, AtLeast(64)] = 2 * 2**20


Admission = FrequencyAdmission | ProbabilisticAdmission | ImportanceAdmission


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """A row group holds at most ``max_bytes``, or ``max_rows``, shared out evenly over shards; then rows leave for new.

    ``lru``: those touched longest ago. ``lfu``: those pushed least often, the longest ago of these first; counts are
    halved whenever one reaches 65,535, so that what was popular once does not stay for ever. ``importance``: the least
    important, and none but for a more important id (see ImportanceAdmission).
    """

    kind: Literal["lru", "lfu", "importance"] = "lru"
    max_bytes: Annotated[int, AtLeast(1)] | None = None
    max_rows: Annotated[int, AtLeast(1)] | None = None

    def __post_init__(self) -> None:
        if (self.max_bytes is None) == (self.max_rows is None):
            raise ConfigError(f"max_bytes={self.max_bytes} and max_rows={self.max_rows}; give one of them")


@dataclass(frozen=True, kw_only=True)
class LearnedStep:
    """What a code of a row stands for: ``initial`` at first, then learned by SGD at ``rate``, a row for itself."""

    initial: Annotated[float, Above(0)]
    rate: Annotated[float, AtLeast(0)]


ADMISSIONS: dict[str, Any] = {
    "frequency": FrequencyAdmission,
    "probabilistic": ProbabilisticAdmission,
    "importance": ImportanceAdmission,
}


def build_admission(fields: Mapping[str, Any], where: str = "admission") -> Admission:
    """Admission from ``{"kind": "frequency", "occurrences": 3}``; ConfigError for what can not be."""
    admission: Admission = build(ADMISSIONS[choose(where, fields, ADMISSIONS)], fields, where)
    return admission
