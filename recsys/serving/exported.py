"""Reading an exported run out of its folder: what ``Ranker.load`` and jobs.evaluate score with, without Redis.

::

    export.json          what to build, the versions, the row groups, and the bytes and SHA-256 sum of every file
    dense.safetensors    the model's parameters, and what batch normalisation keeps, under their own names
    rows-0.safetensors … the rows of a group: keys in order, numbers in the format that they are served in
    features.json        users' histories and profiles, items' facts
    dense.pt2            the dense part as torch.export has it, for other runtimes

Files are mapped: rows that nobody asks for are not read. Loading executes nothing: the model is built of the blueprint.
The last is not read here: ``torch.export.load`` unpickles what an archive says are constants or inputs.

Shape suffixes: N keys asked for, U rows of a group.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.errors import DataError, unknown
from recsys.features.state import FactValues, History, user_from_json
from recsys.hashing import Floats, Keys, id_of_text, id_text
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.dense import DENSE, STATISTICS
from recsys.rows.codecs import CODECS
from recsys.rows.export_folder import DENSE_FILE, FEATURES_FILE, FORMAT, MANIFEST, sums_of
from recsys.rows.store import RowGroup, RowReader
from recsys.rows.tensor_file import map_tensors
from recsys.serving.published import Id, Versions


class ExportedRun:
    """One run as it lies in a folder: see ``ServedRun``."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.recommender = Recommender(Blueprint.from_json(manifest["blueprint"])).eval()
        _load_dense(self.recommender, folder / DENSE_FILE)
        groups = {group.name: group for group in self.recommender.groups}
        self.rows = ExportedRows(self.recommender, groups, folder, manifest["groups"])
        self._features = json.loads((folder / FEATURES_FILE).read_text(encoding="utf-8"))

    def at(self, versions: Versions) -> tuple[Recommender, Versions]:
        """See ServedRun: there is one version."""
        return self.recommender, versions

    def is_there(self) -> bool:
        """See ServedRun: a folder is read whole."""
        return True

    def feature_keys(self, user_id: Id, item_ids: Sequence[Id]) -> list[str]:
        """See ServedRun."""
        return [f"user:{id_text(user_id)}", *(f"item:{id_text(item_id)}" for item_id in item_ids)]

    def values(self, keys: Sequence[str]) -> list[Any]:
        """What lies under keys."""
        return [self._features.get(key) for key in keys]

    def user(self, user_id: Id) -> tuple[History, FactValues]:
        """See ServedRun."""
        return self.user_of(self.values(self.feature_keys(user_id, []))[0])

    def items(self, item_ids: Sequence[Id]) -> list[FactValues]:
        """See ServedRun."""
        return self.facts_of(self.values(self.feature_keys(0, item_ids)[1:]))

    def user_of(self, value: Any) -> tuple[History, FactValues]:
        """See ServedRun."""
        return (History(), {}) if value is None else user_from_json(value)

    def facts_of(self, values: Sequence[Any]) -> list[FactValues]:
        """See ServedRun."""
        return [value or {} for value in values]

    def item_ids(self) -> tuple[Id, ...]:
        """See ServedRun."""
        found = [id_of_text(key.removeprefix("item:")) for key in self._features if key.startswith("item:")]
        numbers = sorted(id_ for id_ in found if isinstance(id_, int))
        return (*numbers, *sorted(id_ for id_ in found if isinstance(id_, str)))

    def recent_items(self, num: int) -> list[Id]:
        """See ServedRun: an export does not know."""
        return []


class Exported:
    """The run in a folder: see ``Served``. DataError for a folder that is no export, or not as it was written."""

    def __init__(self, folder: Path) -> None:
        manifest = _read_manifest(folder)
        for name, sums in manifest["files"].items():
            _check(folder / name, sums)
        self._run, self._versions = ExportedRun(folder, manifest), Versions(**manifest["versions"])

    def current(self) -> tuple[ExportedRun, Versions]:
        """See Served."""
        return self._run, self._versions

    def look(self, keys_of: Callable[[Any], Sequence[str]]) -> tuple[ExportedRun, Versions, list[Any]]:
        """See Served."""
        return self._run, self._versions, self._run.values(keys_of(self._run))

    def close(self) -> None:
        """See Served: files are let go of with the object."""


class ExportedRows(RowReader):
    """Rows of an export. Absent rows read as the group says; dense parameters are the recommender's."""

    def __init__(
        self,
        recommender: Recommender,
        groups: Mapping[str, RowGroup],
        folder: Path,
        described: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._recommender = recommender
        self._groups = {name: groups[name] for name in described}
        self._formats = {name: about["row_format"] for name, about in described.items()}
        self._tensors = {name: map_tensors(folder / about["file"]) for name, about in described.items()}

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        return {name: self._rows(name, keys_N) for name, keys_N in keys.items()}

    def _rows(self, name: str, keys_N: Keys) -> Floats:
        if name == DENSE:
            return self._recommender.dense.rows()[keys_N]
        if name == STATISTICS:
            return self._recommender.statistics.rows()[keys_N]
        if name not in self._groups:
            raise unknown("row group", name, self._groups)
        group, codec, tensors = self._groups[name], CODECS[self._formats[name]], self._tensors[name]
        keys_N = group.checked_keys(keys_N)
        rows_NW, keys_U = group.absent_rows(keys_N), tensors["keys"]
        if len(keys_U):
            places_N = np.minimum(np.searchsorted(keys_U, keys_N), len(keys_U) - 1)
            found = np.flatnonzero(keys_U[places_N] == keys_N)
            records_N = np.empty(len(found), codec.fields(group.width))
            for field in records_N.dtype.names or ():
                records_N[field] = tensors[field][places_N[found]]
            rows_NW[found] = codec.decode(records_N)
        return rows_NW


@torch.no_grad()
def _load_dense(recommender: Recommender, path: Path) -> None:
    """Parameters and statistics by their names; DataError where the model is another."""
    tensors, own = map_tensors(path), recommender.state_dict(keep_vars=True)
    if different := {*tensors} ^ {*own} or {name for name in own if tuple(own[name].shape) != tensors[name].shape}:
        raise DataError(f"{path} is of another model than this version builds: {sorted(different)[0]} differs")
    for name, values in tensors.items():
        own[name].copy_(torch.from_numpy(np.array(values)))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{path} is missing: {folder} is no export; make one: python -m jobs.export run=runs/…")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path}: format {manifest.get('format')!r}, this version reads {FORMAT}; export the run again")
    return manifest


def _check(path: Path, sums: Mapping[str, Any]) -> None:
    """Raise DataError for a file that is missing, or not as it was written."""
    if not path.is_file():
        raise DataError(f"{path} is missing; export the run again")
    if sums_of(path) != sums:
        raise DataError(f"{path} is not as it was written; export the run again")
