"""What the stages of a table kind share: a folder each, and how one of them trains."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.store import Snapshot
from recsys.training.checkpoint import load_checkpoint
from recsys.training.fit import Examples


class Train(Protocol):
    """Trains a blueprint in a folder: a run whose last checkpoint has what it leaves, mostly the best weights."""

    def __call__(
        self, blueprint: Blueprint, within: Path, start: Snapshot | None = None, epochs: int | None = None
    ) -> None:
        """From ``start``, or from the blueprint's initial values; a run that has ended or been stopped goes on.

        With ``epochs``, for so many, whatever validations say, and the last weights are left in place of the best.
        """


@dataclass(frozen=True, kw_only=True)
class Work:
    """What stages share; ``learned`` are the examples that ``train`` learns from."""

    folder: Path
    data: str
    learned: Examples
    valid: Examples
    train: Train
    say: Callable[[str], None]


def stage_folder(folder: Path, name: str) -> Path:
    """Where a stage of a run leaves what it hands on."""
    return folder / "stages" / name


def digest_of(folder: Path) -> str:
    """What tells one training of a stage from another: the sum of its figures."""
    return hashlib.sha256((folder / "summary.json").read_bytes()).hexdigest()


def trained(folder: Path) -> tuple[Recommender, LocalRows]:
    """What a stage has trained, with rows in this process."""
    checkpoint = load_checkpoint(folder / "checkpoints")
    recommender = Recommender(checkpoint.blueprint)
    store = LocalRows(recommender.groups)
    store.restore(checkpoint.rows)
    return recommender, store


def with_table_of(blueprint: Blueprint, kind: str, **found: Any) -> Blueprint:
    """The same with tables of another kind, by what a stage has ``found``: fields of that kind."""
    shared = ("embedding_dim", "pooling", "absent", "row_format", "initial_scale")
    fields: dict[str, Any] = {name: blueprint.table[name] for name in shared if name in blueprint.table}
    return replace(blueprint, table={"kind": kind, **fields, **found})
