"""The Table interface: how ids become row keys, and rows become vectors.

::

    ids ──address──▶ row keys ──RowStore.pull──▶ rows ──compose──▶ vectors ──pool──▶ one embedding an example

Everything else (where rows live, how they are updated, sharded, saved and served) is the row store's.

Shape suffixes: N ids, K keys an id, W row width, D embedding dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from recsys import hashing
from recsys.errors import ConfigError
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.rows.policies import FrequencyAdmission, ImportanceAdmission
from recsys.rows.sizes import KEY_BYTES, bookkeeping_bytes, most_rows, row_bytes, state_bytes
from recsys.rows.store import RowFormat, RowGroup

Pooling = Literal["sum", "mean"]
Absent = Literal["initial", "zeros"]
Form = Literal["training", "serving"]
Shrinks = Literal["nothing", "training", "serving"]
FORMS: tuple[Form, Form] = get_args(Form)


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """What a table takes in one form. ``maps``: keys, flags, scales' and ids' tables, sketches; ``optimizer`` apart."""

    rows: int
    dense: int  # its dense parameters
    maps: int
    optimizer: int = 0  # of rows: that of dense parameters is the dense optimizer's

    @property
    def total(self) -> int:
        """All but the optimizer's."""
        return self.rows + self.dense + self.maps


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """What every kind of table is told. The first four fields are ``torchrec.EmbeddingBagConfig``'s.

    ``num_ids``: how many ids its features have, where that is known; what compression counts from.
    """

    kind: ClassVar[str]

    name: str
    embedding_dim: int
    feature_names: tuple[str, ...]
    pooling: Pooling = "sum"
    optimizer: Optimizer
    initial: Initial = field(default_factory=Initial)
    seed: int = 0
    absent: Absent = "initial"
    row_format: RowFormat = "float32"
    num_ids: int | None = None

    def __post_init__(self) -> None:
        if self.embedding_dim < 1:
            raise ConfigError(f"table {self.name!r}: embedding_dim {self.embedding_dim} must be at least 1")
        if not self.feature_names:
            raise ConfigError(f"table {self.name!r} has no features; name at least one in feature_names")
        if self.pooling not in ("sum", "mean"):
            raise ConfigError(f"table {self.name!r}: pooling {self.pooling!r} must be 'sum' or 'mean'")

    @property
    def full_bytes(self) -> int | None:
        """A row of float32 for each id: what compression divides; None where the ids are not counted."""
        return None if self.num_ids is None else 4 * self.num_ids * self.embedding_dim

    def row_group(
        self, *, width: int, num_rows: int | None, suffix: str = "", initial: Initial | None = None
    ) -> RowGroup:
        """A row group of this table; another table of the same name and config means the same rows."""
        return RowGroup(
            name=self.name + suffix,
            width=width,
            num_rows=num_rows,
            optimizer=self.optimizer,
            initial=self.initial if initial is None else initial,
            seed=hashing.seed_of(self.seed, suffix) if suffix else self.seed,
            absent=self.absent,
            row_format=self.row_format,
        )

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> "TableConfig":
        """The width-1 companion for a model's linear part: same kind and sizes, starting from zero."""
        return replace(
            self,
            name=f"{self.name}.first_order",
            embedding_dim=1,
            initial=Initial(scale=0.0),
            optimizer=optimizer,
            **changes,
        )


class Table(nn.Module, ABC):
    """One embedding table, compressed or not. Subclasses set ``groups`` and write ``address`` and ``compose``.

    ``linear``: compose is linear and the same for every id of a feature, so that rows may be pooled before it.
    ``id_range``: what ``known`` says, in words. ``shrinks``: what is smaller than a full table, training memory (and so
    serving) or what is served alone; ``streams``: whether it learns from a stream, whatever ids come up; ``stages``:
    what it has to go through, in order, before it is served. ``pushed_if_used``: row groups whose rows may be asked for
    and then not used: such a row, without any gradient, is not pushed. ``composes_once``: compose is dear, and is asked
    for each distinct id once, in their order. ``held_out_groups``: row groups that learn from other examples than rows
    do, where the trainer has some (DARTS, Liu, Simonyan and Yang 2019).
    """

    shrinks: ClassVar[Shrinks] = "training"
    streams: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ()
    pushed_if_used: tuple[str, ...] = ()
    composes_once: bool = False
    held_out_groups: tuple[str, ...] = ()
    linear: bool = False
    id_range: str = "int64"
    groups: tuple[RowGroup, ...]

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """Row keys of ids: int64 (N, K) by row group. Pure: the same in every process, creates nothing."""

    @abstractmethod
    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """Vectors (N, D) from the rows found at ``address``'s keys; differentiable in rows and parameters."""

    def known(self, feature: str, ids_N: Tensor) -> Tensor | None:
        """Which ids the table can hold: bool (N,), or None for all; the others are left out of their bags."""
        return None

    def penalty(self) -> Tensor:
        """A term for the loss; none by default."""
        return torch.zeros(())

    def begin_step(self, seed: int) -> None:
        """A step of training begins; what is drawn at random in it follows from ``seed``."""
        return None

    def drawn(self, feature: str, num_examples: int) -> Tensor | None:
        """Factors (B, D) of the vectors of each example, drawn at random for this step; None for none."""
        return None

    def nbytes(self, form: Form, num_rows: Mapping[str, int] | None = None) -> Bytes:
        """What the table takes as it is trained or served; of groups that grow, for the ``num_rows`` they hold.

        Rows count as they are kept, in their format; in serving too, where Redis has names and pointers besides.
        """
        dense, maps = 4 * sum(parameter.numel() for parameter in self.parameters()), self.map_bytes(form)
        held = [(group, _rows_of(group, num_rows or {})) for group in self.groups]
        rows = sum(num * row_bytes(group) for group, num in held)
        if form == "serving":
            keys = sum(num * KEY_BYTES for group, num in held if group.num_rows is None)
            return Bytes(rows=rows, dense=dense, maps=maps + keys)
        kept = sum(num * bookkeeping_bytes(group) + _sketch_bytes(group) for group, num in held)
        state = sum(num * state_bytes(group) for group, num in held)
        return Bytes(rows=rows, dense=dense, maps=maps + kept, optimizer=state)

    def map_bytes(self, form: Form) -> int:
        """Bytes of what the table itself keeps beside rows and parameters: maps of ids, flags, codes; or none."""
        return 0


def _rows_of(group: RowGroup, num_rows: Mapping[str, int]) -> int:
    """Rows to count: all that an array has room for, those held of a group that grows, or the most it may hold."""
    if group.num_rows is None and group.name in num_rows:
        return num_rows[group.name]
    return most_rows(group) or 0


def _sketch_bytes(group: RowGroup) -> int:
    counted = FrequencyAdmission | ImportanceAdmission
    return group.admission.max_bytes if isinstance(group.admission, counted) else 0


def identity(rows_NKW: Mapping[str, Tensor]) -> Tensor:
    """The one row of each id, as it is."""
    (rows,) = rows_NKW.values()
    return rows[:, 0, :]


def a_place_of_each(group_N: Tensor, num_groups: int) -> Tensor:
    """A position at which each of the groups 0 … num_groups − 1 occurs: the last.

    >>> a_place_of_each(torch.tensor([1, 0, 1]), 2).tolist()
    [1, 2]
    """
    return torch.empty(num_groups, dtype=torch.int64).scatter_(0, group_N, torch.arange(len(group_N)))


def require(config: TableConfig, name: str, remedy: str) -> Any:
    """A field that must be set and at least 1."""
    value = getattr(config, name)
    if value is None or value < 1:
        raise ConfigError(f"table {config.name!r} (kind={config.kind}): {name} is {value}; {remedy}")
    return value
