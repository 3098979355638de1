"""Checkpoints of models of sessions: rows, optimizer state, dense parameters and where training stands, in files.

::

    <run>/catalogue.safetensors                  what serving needs of the log that was learned
    <run>/checkpoints/checkpoint-000007/         after the seventh epoch: what resume= goes on from
    <run>/best/checkpoint-000005/                the best by validation: what is judged, loaded and published
        part-rows-0.parquet   dense.safetensors  state.json  manifest.json

The manifest comes last, with sizes and SHA-256 sums; reading checks them and executes nothing.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataError, ServiceError
from recsys.models.sessions.catalogue import Catalogue
from recsys.models.sessions.recommender import SessionBlueprint, TrackRecommender
from recsys.ps.dense import DENSE
from recsys.rows.files import read_part, write_part
from recsys.rows.folders import Folder
from recsys.rows.local import LocalRows
from recsys.rows.store import Snapshot
from recsys.sessions.log import SessionLog
from recsys.training.dense_file import module_from_bytes, module_to_bytes
from recsys.training.keeping import first_difference
from recsys.training.manifests import name_of, number_of
from recsys.training.session_trainer import SessionCourse

_FORMAT = 1
_CATALOGUE, _DENSE_FILE, _STATE_FILE = "catalogue.safetensors", "dense.safetensors", "state.json"


@dataclass(frozen=True, kw_only=True)
class SessionCheckpoint:
    """One epoch's end. ``about`` is what the run was told beside its blueprint, as JSON."""

    blueprint: SessionBlueprint
    rows: Snapshot
    course: SessionCourse
    about: Mapping[str, Any] = field(default_factory=dict)


class SessionCheckpoints:
    """Checkpoints in a folder, the newest ``keep`` of them; each is there whole or not at all.

    ServiceError for what can not be written, DataError for what is not as it was written.
    """

    def __init__(self, where: str | Path, *, keep: int = 2) -> None:
        self._folder, self._keep = Folder.of(where), keep

    def names(self) -> list[str]:
        """Those that are complete, oldest first."""
        return sorted((name for name in self._folder.names() if (self._folder / name).is_published), key=number_of)

    def save(self, recommender: TrackRecommender, checkpoint: SessionCheckpoint) -> None:
        """Write one, named by its number of epochs, and remove what is old; ``recommender`` takes its parameters."""
        folder = self._folder / name_of(checkpoint.course.epoch)
        folder.remove()
        folder.create()
        groups = dict(checkpoint.rows.groups)
        dense = groups.pop(DENSE)
        part = write_part(folder, "part", Snapshot(checkpoint.rows.cursor, groups))
        state = {
            "blueprint": checkpoint.blueprint.to_json(), "course": asdict(checkpoint.course),
            "about": dict(checkpoint.about),
        }  # fmt: skip
        files = {
            _STATE_FILE: folder.write_bytes(_STATE_FILE, json.dumps(state).encode()),
            _DENSE_FILE: folder.write_bytes(_DENSE_FILE, module_to_bytes(recommender, dense)),
        }
        folder.publish({"format": _FORMAT, "part": part, "files": files})
        for name in self.names()[: -self._keep]:
            with suppress(ServiceError):  # it is tried again after the next one
                (self._folder / name).remove()

    def load(self, log: SessionLog, name: str | None = None) -> SessionCheckpoint:
        """A checkpoint, by default the newest, of a model over the tracks of ``log``."""
        folder, manifest = self._opened(name)
        state = self._state(folder, manifest)
        blueprint = SessionBlueprint(**state["blueprint"])
        dense = folder.read(_DENSE_FILE, manifest["files"][_DENSE_FILE]).to_pybytes()
        rows = read_part(folder, manifest["part"])
        groups = {**rows.groups, DENSE: module_from_bytes(TrackRecommender(blueprint, log), dense)}
        return SessionCheckpoint(
            blueprint=blueprint,
            rows=Snapshot(rows.cursor, groups),
            course=SessionCourse(**state["course"]),
            about=state["about"],
        )

    def _opened(self, name: str | None) -> tuple[Folder, dict[str, Any]]:
        if not (names := self.names()):
            raise DataError(f"no checkpoint in {self._folder}; give the folder of a run of jobs.session")
        folder = self._folder / (name or names[-1])
        return folder, folder.read_manifest(version=_FORMAT, fields={"part", "files"})

    def _state(self, folder: Folder, manifest: Mapping[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(folder.read(_STATE_FILE, manifest["files"][_STATE_FILE]).to_pybytes())
        return state


class SessionKeeper:
    """Keeps a run that learns: its last epochs to go on from, its best to be judged. See ``fit_sessions``."""

    def __init__(self, folder: Path, recommender: TrackRecommender, log: SessionLog, about: Mapping[str, Any]) -> None:
        self._recommender, self._log, self._about = recommender, log, about
        self._last, self._best = SessionCheckpoints(folder / "checkpoints"), SessionCheckpoints(folder / "best", keep=1)
        write_catalogue(folder, Catalogue.of(log, recommender.model))

    def epoch_ended(self, course: SessionCourse, rows: Snapshot, is_best: bool) -> None:
        """The best first: a run that is cut off between the two does its last epoch again."""
        checkpoint = SessionCheckpoint(
            blueprint=self._recommender.blueprint, rows=rows, course=course, about=self._about
        )
        if is_best:
            self._best.save(self._recommender, checkpoint)
        self._last.save(self._recommender, checkpoint)

    def best_rows(self) -> Snapshot:
        """Those of the best epoch."""
        return self._best.load(self._log).rows


def write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """``catalogue.safetensors``, there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _CATALOGUE
    path.with_suffix(".writing").write_bytes(catalogue.to_bytes())
    path.with_suffix(".writing").replace(path)


def is_session_run(folder: Path) -> bool:
    """Whether a run is one of jobs.session that learned by gradients."""
    return (folder / _CATALOGUE).is_file()


def open_resumed(
    folder: Path, log: SessionLog, blueprint: SessionBlueprint, about: Mapping[str, Any]
) -> SessionCheckpoint:
    """Where a run that was cut off stands; ConfigError, by the first option, where it was told something else."""
    checkpoint = SessionCheckpoints(folder / "checkpoints").load(log)
    before = {**checkpoint.blueprint.to_json(), **checkpoint.about}
    now = json.loads(json.dumps({**blueprint.to_json(), **about}))
    if different := first_difference(before, now):
        name, was, is_now = different
        raise ConfigError(f"resume={folder}: {name} was {was!r}, and is {is_now!r} now; give the options that it had")
    return checkpoint


@dataclass(frozen=True)
class LearnedRun:
    """A run's best, to be asked or published."""

    catalogue: Catalogue
    checkpoint: SessionCheckpoint
    recommender: TrackRecommender
    store: LocalRows


def load_run(folder: Path) -> LearnedRun:
    """A trained run without its log; DataError for a folder that holds none."""
    if not is_session_run(folder):
        raise DataError(f"{folder} holds no {_CATALOGUE}; give the folder of a run of jobs.session that learned")
    catalogue = Catalogue.from_bytes((folder / _CATALOGUE).read_bytes())
    checkpoint = SessionCheckpoints(folder / "best").load(catalogue.nobody())
    recommender = TrackRecommender.of_catalogue(checkpoint.blueprint, catalogue)
    store = LocalRows(recommender.groups)
    store.restore(checkpoint.rows)
    return LearnedRun(catalogue, checkpoint, recommender, store)
