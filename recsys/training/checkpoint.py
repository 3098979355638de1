"""A trained run on disk: rows, optimizer state, features and stream positions of one instant.

Rows lie in Parquet, one file a row group; the rest is JSON. Files are written beside their place and published by
renaming the folder, with a manifest of sizes and SHA-256 sums; loading checks them and executes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.models.recommender import Blueprint
from recsys.rows import folders
from recsys.rows.files import read_groups, write_groups
from recsys.rows.store import Snapshot

_FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """One cut: what to build, its rows, the joiners' states (features and positions), and what the run said of it."""

    blueprint: Blueprint
    rows: Snapshot
    joiners: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; ``load_checkpoint`` finds the old one or the new one at any time, never a part."""
    staged = folders.staged(folder)
    rows = write_groups(staged, checkpoint.rows)
    state = {"blueprint": checkpoint.blueprint.to_json(), "joiners": checkpoint.joiners}
    (staged / "state.json").write_text(json.dumps(state))
    folders.publish(folder, {"format": _FORMAT, "rows": rows, "about": checkpoint.about})


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; DataError names a file that is missing, cut short or altered."""
    folder, manifest = folders.opened(folder, what="checkpoint", version=_FORMAT, fields={"rows", "about"})
    state = json.loads((folder / "state.json").read_text())
    return Checkpoint(
        blueprint=Blueprint.from_json(state["blueprint"]),
        rows=read_groups(folder, manifest["rows"]),
        joiners=state["joiners"],
        about=manifest["about"],
    )
