"""Write a trained run to a folder that ``Ranker.load`` and jobs.evaluate score with: see ``recsys.serving.exported``.

What is written is the frozen form: rows as a publication has them, in few bits where they are kept or asked for so, no
optimizer state. Readers need torch and numpy alone. Beside it lies the dense part as ``torch.export`` has it, for other
runtimes (``program.py``).

Shape suffix: U rows of a group.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from recsys.errors import ConfigError, ServiceError
from recsys.features.state import FeatureState
from recsys.hashing import id_text
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.dense import DENSE
from recsys.rows.codecs import CODECS
from recsys.rows.export_folder import DENSE_FILE, FEATURES_FILE, FORMAT, MANIFEST, PROGRAM_FILE, sums_of
from recsys.rows.layout import Layout
from recsys.rows.store import WHOLE, RowGroup, RowStore, Upserts
from recsys.training.program import write_program

_CONSUMER = "export"


def export_run(
    folder: Path,
    run: str,
    *,
    blueprint: Blueprint,
    store: RowStore,
    features: Sequence[FeatureState],
    time_ms: int,
    row_format: str = "float32",
    with_program: bool = True,
) -> dict[str, Any]:
    """Write rows, dense parameters and features; the manifest: ``bytes`` of all ``files``, and why ``no_program``.

    ConfigError where ``folder`` is there already, ServiceError where it can not be written: nothing is left then.
    """
    if folder.exists():
        raise ConfigError(f"to={folder} is there already; remove it, or name another folder")
    beside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        manifest = _write(beside, run, blueprint, store, features, time_ms, row_format, with_program)
        os.replace(beside, folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise ServiceError(
            f"{folder} can not be written ({error.strerror}); make room, or name another folder"
        ) from error
    return manifest


def _write(
    folder: Path,
    run: str,
    blueprint: Blueprint,
    store: RowStore,
    features: Sequence[FeatureState],
    time_ms: int,
    row_format: str,
    with_program: bool,
) -> dict[str, Any]:
    """All files, the manifest last."""
    layout = Layout(model="export", run="export", row_format=row_format)  # type: ignore[arg-type]
    changes = store.changes(_CONSUMER)
    recommender = Recommender(blueprint).eval()
    recommender.load_dense(store.pull(recommender.dense_keys))
    _write_dense(folder / DENSE_FILE, recommender)
    why_not = write_program(folder / PROGRAM_FILE, recommender) if with_program else "it was not asked for"
    groups = {}
    for at, (name, upserts) in enumerate(changes.upserts.items()):
        if name not in WHOLE:
            groups[name] = {"file": f"rows-{at}.safetensors", "row_format": layout.format_of(store.groups[name])}
            _write_rows(folder / groups[name]["file"], store.groups[name], groups[name]["row_format"], upserts)
    sequence = _write_features(folder / FEATURES_FILE, features)
    versions = {  # the fields of recsys.serving.published.Versions
        "run": run,
        "version": sum(changes.cursor) + sequence,
        "rows": sum(changes.cursor),
        "time_ms": time_ms,
        "published_at_ms": int(1000 * time.time()),
        "dense": int(changes.upserts[DENSE].sequences_U.max(initial=0)),
    }
    manifest = {
        "format": FORMAT,
        "blueprint": blueprint.to_json(),
        "versions": versions,
        "groups": groups,
        "no_program": why_not,
        "files": {path.name: sums_of(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _write_dense(path: Path, recommender: Recommender) -> None:
    """Parameters and statistics under their own names."""
    tensors = {name: np.asarray(tensor.numpy(), order="C") for name, tensor in recommender.state_dict().items()}
    save_file(tensors, path)


def _write_rows(path: Path, group: RowGroup, row_format: str, upserts: Upserts) -> None:
    """Keys in order, and what the codec makes of the rows, a tensor a field."""
    order = np.argsort(upserts.keys_U)
    codec = CODECS[row_format]
    records_U = np.empty(len(order), codec.fields(group.width))
    codec.encode(upserts.rows_UW[order], records_U)
    fields = {name: np.ascontiguousarray(records_U[name]) for name in records_U.dtype.names or ()}
    save_file({"keys": upserts.keys_U[order], **fields}, path)


def _write_features(path: Path, states: Sequence[FeatureState]) -> int:
    """Users and items as they are published; the number of their last change."""
    parts = [state.changes("export", 0) for state in states]
    users: dict[str, Mapping[str, Any]] = {}
    for part in parts:
        for id_, user in part.users.items():  # all joiners read all facts, but one alone has a user's history
            if f"user:{id_text(id_)}" not in users or user["history"]["num_impressions"]:
                users[f"user:{id_text(id_)}"] = user
    items = {f"item:{id_text(id_)}": item for part in parts for id_, item in part.items.items()}
    path.write_text(json.dumps({**users, **items}, separators=(",", ":")), encoding="utf-8")
    return sum(part.sequence for part in parts)
