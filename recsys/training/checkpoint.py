"""Checkpoints: rows, optimizer state, dense parameters, features and stream positions of one instant, in files.

::

    checkpoints/checkpoint-000007/
        shard-0-rows-0.parquet …    what write_part wrote, a part a shard: everything, or what changed since the base
        dense.safetensors           the model's parameters under their own names, and their optimizer state
        state.json                  what to build, the joiners' features, positions
        manifest.json               written last: sizes and SHA-256 sums, and the base that the parts add to

Several shards write at once; the manifest publishes it. Reading checks every sum, executes nothing, and restores onto
any number of shards. Where a file is damaged, the error names it and the last checkpoint before that is sound.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataError, ServiceError, unknown
from recsys.models.recommender import Blueprint
from recsys.ps.dense import DENSE
from recsys.ps.routing import belongs, merge_snapshots
from recsys.rows.files import apply, read_part, write_part
from recsys.rows.folders import Folder
from recsys.rows.store import Cursor, GroupSnapshot, RowGroup, Snapshot, check_whole
from recsys.training.dense_file import dense_from_bytes, dense_to_bytes
from recsys.training.manifests import FORMAT, Manifests, name_of, number_of

_DENSE_FILE = "dense.safetensors"
_STATE_FILE = "state.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything of a cut but its rows: what to build, the joiners' states, and what the run said of it, all JSON.

    ``step`` is the one that all shards show, ``position`` where the streams stand after it.
    """

    blueprint: Blueprint
    joiners: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]
    step: int = 0
    position: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(State):
    """One cut: its state and its rows."""

    rows: Snapshot


def save_checkpoint(where: str | Path, checkpoint: Checkpoint, *, keep: int = 2) -> None:
    """Write a whole checkpoint of one process, of which ``keep`` stay; errors are those of ``Checkpoints``."""
    check_whole(checkpoint.rows)
    groups = dict(checkpoint.rows.groups)
    dense = groups.pop(DENSE)
    checkpoints = Checkpoints(where, keep=keep)
    name, folder = checkpoints.begin()
    part = write_part(folder, "part-0", Snapshot(checkpoint.rows.cursor, groups))
    checkpoints.commit(name, [part], dense, checkpoint, None)


def load_checkpoint(where: str | Path) -> Checkpoint:
    """The newest checkpoint; DataError where there is none, or it is not as it was written."""
    return Checkpoints(where).load()


class Checkpoints:
    """The checkpoints of a run, in a local folder or an object store.

    The newest ``keep`` stay, and what they add to; after ``full_every`` - 1 increments comes a whole one. What can not
    be written is a ServiceError and leaves the others as they were; what is not as it was written is a DataError that
    names the file, and the last checkpoint before that is sound.
    """

    def __init__(self, where: str | Path | Folder, *, keep: int = 2, full_every: int = 10) -> None:
        if keep < 1 or full_every < 1:
            raise ConfigError(f"checkpoint.keep {keep} and checkpoint.full_every {full_every} must be at least 1")
        self._folder = Folder.of(where)
        self._manifests = Manifests(self._folder)
        self._keep, self._full_every = keep, full_every

    def names(self) -> list[str]:
        """Those that are complete, oldest first."""
        return self._manifests.names()

    # --- writing

    def base(self, num_parts: int) -> str | None:
        """What an increment of so many parts may add to: the newest, where all that it needs is at hand.

        None where the next must be whole.
        """
        newest = self.names()[-1:]
        try:
            if not newest or len(self._manifests.read(newest[0])["parts"]) != num_parts:
                return None
            chain = self._manifests.chain(newest[0])
            for name in chain:
                self._manifests.check_at_hand(name, self._manifests.read(name))
        except DataError as error:
            _log.warning("the next checkpoint will be whole: %s", error)
            return None
        return newest[0] if len(chain) < self._full_every else None

    def cursors(self, name: str) -> list[Cursor]:
        """The instant of each part: the ``since`` of an increment over it."""
        return [tuple(part["cursor"]) for part in self._manifests.read(name)["parts"]]

    def begin(self) -> tuple[str, Folder]:
        """A name after all others, and its folder to write parts to; what others left unfinished is removed."""
        begun, complete = self._manifests.begun(), set(self.names())
        name = name_of(1 + max(map(number_of, begun), default=0))
        (self._folder / name).create()  # before the leftovers go: who still writes to one must not meet this one
        for left in begun:
            if left not in complete:
                self._remove(left)
        return name, self._folder / name

    def commit(
        self, name: str, parts: Sequence[Mapping[str, Any]], dense: GroupSnapshot, state: State, base: str | None
    ) -> None:
        """Publish a checkpoint whose parts are written, and remove those that are old.

        ``dense`` is the group DENSE, which parts do not hold; ``base`` what the parts that are increments add to.
        """
        folder = self._folder / name
        try:
            link = self._link(parts, base)
            files = {
                _STATE_FILE: folder.write_bytes(_STATE_FILE, _state_to_bytes(state)),
                _DENSE_FILE: folder.write_bytes(_DENSE_FILE, dense_to_bytes(state.blueprint, dense)),
            }
            manifest = {"format": FORMAT, "base": link, "parts": parts, "files": files}
            self._check_at_hand(name, manifest)
            folder.publish(manifest)
        except Exception:
            self._remove(name)
            raise
        self._retain()

    def _link(self, parts: Sequence[Mapping[str, Any]], base: str | None) -> dict[str, str] | None:
        """How the manifest names the base; ServiceError where that can not be read any more."""
        if all(part["since"] is None for part in parts):
            return None
        if base is None:
            raise ValueError("parts that are increments need the base that they add to")
        try:
            manifest = self._manifests.read(base)
        except DataError as error:
            raise ServiceError(f"could not add to {base}: {error}; the next checkpoint must be whole") from error
        for at, (part, found) in enumerate(zip(parts, manifest["parts"], strict=True)):
            if part["since"] not in (None, found["cursor"]):
                raise ValueError(f"part {at} of {base} is of {found['cursor']}, its increment of after {part['since']}")
        return {"name": base, "sha256": manifest["sha256"]}

    def _check_at_hand(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Before it is published: what the shards have written is where this process, too, finds it."""
        try:
            self._manifests.check_at_hand(name, manifest)
        except DataError as error:
            raise ServiceError(
                f"{error}, though it was written: on several machines, choose a folder that they share, or an object "
                "store (s3://…)"
            ) from error

    def _retain(self) -> None:
        """Remove what is old and not needed, increments before what they add to."""
        names = self.names()
        needed = set(names[-self._keep :])
        for name in names[-self._keep :]:
            with suppress(DataError):  # one that can not be read needs nothing
                needed.update(self._manifests.chain(name))
        for name in reversed(names):
            if name not in needed:
                self._remove(name)

    def _remove(self, name: str) -> None:
        """As far as possible: what stays is tried again at the next checkpoint."""
        try:
            (self._folder / name).remove()
        except ServiceError as error:
            _log.warning("%s", error)

    def remove_after(self, name: str) -> list[str]:
        """Remove the checkpoints after this one, which a run that goes back to it leaves; their names.

        Else a recovery would return to one of them.
        """
        later = [other for other in self.names() if number_of(other) > number_of(name)]
        for other in reversed(later):
            self._remove(other)
        return later

    # --- reading

    def load(self, name: str | None = None) -> Checkpoint:
        """Everything of a checkpoint, by default of the newest, in this process."""
        name = self._chosen(name)
        with self._offering(name):
            state, dense = self._read_state(name)
            rows = merge_snapshots([self._read_part(name, at) for at in range(self._num_parts(name))])
        whole = Snapshot(rows.cursor, {**rows.groups, DENSE: dense})
        return Checkpoint(**vars(state), rows=whole)

    def load_state(self, name: str | None = None) -> tuple[State, GroupSnapshot]:
        """All but the rows of tables: the state, and the group DENSE."""
        name = self._chosen(name)
        with self._offering(name):
            return self._read_state(name)

    def load_part(self, name: str, part: int, num_parts: int, groups: Mapping[str, RowGroup]) -> Snapshot:
        """The rows of shard ``part`` of ``num_parts``, without the group DENSE; reads no more than it must.

        A checkpoint of another number of parts is cut anew: all of those go on counting from the same sequence number.
        """
        name = self._chosen(name)
        with self._offering(name):
            num_written = self._num_parts(name)
            if num_written == num_parts:
                return self._read_part(name, part)
            own = [_selected(self._read_part(name, at), groups, part, num_parts) for at in range(num_written)]
        rows = merge_snapshots(own)
        return Snapshot((max(rows.cursor),), rows.groups)

    def _chosen(self, name: str | None) -> str:
        names = self.names()
        if not names:
            raise DataError(f"no checkpoint in {self._folder}; give the folder of a trained run")
        if name is None:
            return names[-1]
        if name not in names:
            raise DataError(f"no {name} in {self._folder}; there are {', '.join(names)}")
        return name

    def _num_parts(self, name: str) -> int:
        return len(self._manifests.read(name)["parts"])

    def _read_part(self, name: str, at: int) -> Snapshot:
        links = self._manifests.links(name, at)
        return reduce(apply, (read_part(self._folder / link, described) for link, described in links))

    def _read_state(self, name: str) -> tuple[State, GroupSnapshot]:
        files = self._manifests.read(name)["files"]
        data = {file: (self._folder / name).read(file, sums).to_pybytes() for file, sums in files.items()}
        fields = json.loads(data[_STATE_FILE])
        state = State(**{**fields, "blueprint": Blueprint.from_json(fields["blueprint"])})
        return state, dense_from_bytes(state.blueprint, data[_DENSE_FILE])

    # --- what is offered in place of a damaged one

    @contextmanager
    def _offering(self, name: str) -> Iterator[None]:
        """Let a DataError name the last sound checkpoint before ``name``."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{error}; {self._offer(name)}") from error

    def _offer(self, name: str) -> str:
        for before in reversed(self.names()):
            if number_of(before) < number_of(name) and self._manifests.is_sound(before):
                return f"the one before it is {before}: resume from that with resume_from={before}"
        return f"there is no sound one before {name}: restore the file, or train again"


def _state_to_bytes(state: State) -> bytes:
    fields = {name: getattr(state, name) for name in State.__dataclass_fields__}
    return json.dumps({**fields, "blueprint": state.blueprint.to_json()}).encode()


def _selected(rows: Snapshot, groups: Mapping[str, RowGroup], part: int, num_parts: int) -> Snapshot:
    own = {}
    for name, group in rows.groups.items():
        if name not in groups:
            raise unknown("row group", name, groups)
        own[name] = group.select(partial(belongs, groups[name], part, num_parts))
    return Snapshot(rows.cursor, own)
