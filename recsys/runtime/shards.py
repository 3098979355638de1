"""Row shards as Ray actors: the parameter server.

A shard that begins anew needs no torch, and does not load it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import ray

from recsys.errors import ServiceError
from recsys.hashing import Keys
from recsys.ps.absence import ShardAway
from recsys.ps.client import Pending, wait_all
from recsys.ps.routing import NUM_BUCKETS, shard_buckets, split_snapshot
from recsys.ps.shard import Refreshed, StepShard
from recsys.ps.steps import Part, Steps
from recsys.ps.wire import PackedKeys, PackedRows, gradients_of
from recsys.rows.files import write_part
from recsys.rows.folders import Folder
from recsys.rows.local import LocalRows
from recsys.rows.store import DENSE, Cursor, GroupSnapshot, RowGroup, Snapshot, StreamPosition
from recsys.runtime.actors import ActorDied, Placement, start_actor, times_made_anew, wait_for
from recsys.runtime.answering import Answering
from recsys.runtime.metrics import ShardMetrics

_MIN_THREADS = 64
_REPORT_SECONDS = 1.0
_MOST_LOST = 1 << 20  # changes that one life of a shard may have published since the checkpoint which it returns to


@dataclass(frozen=True, kw_only=True)
class Begin:
    """What a shard starts from: ``start`` of a new run, or checkpoint ``name`` in ``checkpoints``.

    A new run that begins with what another has ``learned`` (folder and name of that checkpoint) has no ``name`` yet.

    Its sequence numbers go on ``above`` those of what was published before. Where it dies Ray makes it anew, up to
    ``restarts`` times; it then takes the newest checkpoint there is.
    """

    start: Snapshot
    checkpoints: str | None = None
    name: str | None = None
    learned: tuple[str, str] | None = None
    step: int = 0
    position: StreamPosition = field(default_factory=dict)
    members: Mapping[int, int] = field(default_factory=dict)
    staleness: int = 0
    above: int = 0
    restarts: int = 0


class Held(NamedTuple):
    """A snapshot that a shard has taken and not written yet: what its maker is told."""

    position: dict[int, tuple[int, int]]
    dense: GroupSnapshot | None  # the rows of the dense parameters, where there are such
    pause_seconds: float


class RowShard:
    """One shard: a StepShard over its share of the virtual buckets."""

    def __init__(self, groups: Sequence[RowGroup], shard: int, num_shards: int, begin: Begin) -> None:
        store = LocalRows(groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        self._share = (shard, num_shards)
        lives_before = times_made_anew() if begin.restarts > 0 else 0
        lost = lives_before > 0
        self._made_again_at, self._made_again_from = time.time_ns() if lost else 0, 0
        if lost:
            begin = _newest(begin)
            self._made_again_from = begin.step
        rows = _first_rows(begin, store.groups, shard, num_shards)
        if lost:  # what was published of it since is newer than its rows, and shall not win over them
            rows = replace(rows, cursor=(rows.cursor[0] + lives_before * _MOST_LOST,))
        store.restore(rows)
        if lost:
            store.resend()
        steps = Steps(
            store,
            staleness=begin.staleness,
            applied=begin.step,
            members=None if lost else begin.members,  # others may take part by now: the driver says who
            position=begin.position,
            lost=lost,
        )
        self._metrics, self._reported_at = ShardMetrics(shard), 0.0
        self._shard = StepShard(store, steps, self._note)
        self._held: dict[str, Snapshot] = {}
        self._answering = Answering(self._shard)

    def ready(self) -> None:
        """Answers once the shard is up."""

    def run(self, method: str, *arguments: Any) -> Any:
        """Any method of a StepShard."""
        return getattr(self._shard, method)(*arguments)

    def pull(self, keys: PackedKeys, *after: int) -> PackedRows:
        """``StepShard.pull``, packed."""
        return PackedRows.of(self._shard.pull(keys.unpack(), *after))

    def prefetch(self, worker: int, step: int, keys: PackedKeys) -> PackedRows:
        """``StepShard.prefetch``, packed."""
        return PackedRows.of(self._shard.prefetch(worker, step, keys.unpack()))

    def push(
        self, part: Part, keys: PackedKeys, gradients: PackedRows, counts: PackedKeys, refresh: bool
    ) -> tuple[PackedKeys, PackedRows] | None:
        """``StepShard.push``, packed; ``counts`` of the groups that come with some."""
        pushed = gradients_of(keys.unpack(), gradients.unpack(), counts.unpack())
        changed = self._shard.push(replace(part, gradients=pushed), refresh)
        if changed is None:
            return None
        positions = PackedKeys.of({name: at for name, (at, _) in changed.items()})
        return positions, PackedRows.of({name: rows_UW for name, (_, rows_UW) in changed.items()})

    def open_lane(self, name: str) -> bool:
        """Answer what comes through a lane; False where it lies on another machine."""
        return self._answering.open(name)

    def close_lanes(self) -> None:
        """Give up every lane: their users make new ones."""
        self._answering.close()

    def failed(self, name: str, number: int) -> None:
        """Raise what the call of a number through a lane has raised."""
        failure = self._answering.failures.pop((name, number), None)
        raise failure or ServiceError(f"shard {self._share[0]} was made anew, and its error of before is lost with it")

    def hold(self, step: int, patience_seconds: float, name: str, since: Cursor | None) -> tuple[int, Held]:
        """(step, what was held): a copy of everything after a step, to be written by ``write``. See StepShard.at."""

        def take() -> tuple[int, Held]:
            started = time.perf_counter()
            snapshot = self._shard.store.snapshot(since, whole=(DENSE,))
            rows = {group: part for group, part in snapshot.groups.items() if group != DENSE}
            self._held = {name: replace(snapshot, groups=rows)}
            pause = time.perf_counter() - started
            return self._shard.steps.applied, Held(dict(self._shard.steps.position), snapshot.groups.get(DENSE), pause)

        answer: tuple[int, Held] = self._shard.kept(step, self._shard.appoint(step, take), patience_seconds)
        return answer

    def write(self, folder: Folder, name: str) -> dict[str, Any]:
        """Write what is held, while training goes on; returns its description. ServiceError where it was lost."""
        if name not in self._held:
            raise ServiceError(
                f"shard {self._share[0]} was made anew, and its part of {name} is lost; the next is whole"
            )
        return write_part(folder, f"shard-{self._share[0]}", self._held.pop(name))

    def look(self) -> dict[str, Any]:
        """See StepShard.look; once this shard was made anew ``made_again_at`` says when, ``made_again_from`` at which
        step.
        """
        return {
            **self._shard.look(),
            "made_again_at": self._made_again_at,
            "made_again_from": self._made_again_from,
        }

    def _note(self, kind: str, seconds: float, rows: int) -> None:
        (self._metrics.pulled if kind == "pull" else self._metrics.pushed)(seconds, rows)
        if time.monotonic() - self._reported_at > _REPORT_SECONDS:  # under the shard's lock
            self._reported_at = time.monotonic()
            steps, store = self._shard.steps, self._shard.store
            self._metrics.state(
                applied_step=steps.applied,
                queued_parts=steps.num_waiting,
                staleness_steps=steps.newest - steps.applied,
                rows=sum(store.num_rows().values()),
                bytes=store.nbytes,
            )


def _newest(begin: Begin) -> Begin:
    """A lost shard returns to the newest checkpoint."""
    from recsys.training.checkpoint import Checkpoints

    names = [] if begin.checkpoints is None else Checkpoints(begin.checkpoints).names()
    if begin.checkpoints is None or not names:
        return begin
    state, _ = Checkpoints(begin.checkpoints).load_state(names[-1])
    return replace(begin, name=names[-1], step=state.step, position=position_of(state.position))


def position_of(saved: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """The position in a checkpoint's state, whose keys JSON has made text."""
    return {int(partition): (at[0], at[1]) for partition, at in saved.items()}


def _first_rows(begin: Begin, groups: Mapping[str, RowGroup], shard: int, num_shards: int) -> Snapshot:
    """This shard's rows at the start."""
    where, name = begin.learned if begin.learned and begin.name is None else (begin.checkpoints, begin.name)
    if name is None or where is None:
        rows = split_snapshot(begin.start, dict(groups), num_shards)[shard]
    else:
        from recsys.training.checkpoint import Checkpoints

        checkpoints = Checkpoints(where)
        _, dense = checkpoints.load_state(name)
        own = split_snapshot(Snapshot((0,), {DENSE: dense}), dict(groups), num_shards)[shard]
        rows = checkpoints.load_part(name, shard, num_shards, groups)
        rows = replace(rows, groups={**rows.groups, **own.groups})
    return replace(rows, cursor=(max(begin.above, *rows.cursor),))


@dataclass(frozen=True)
class RayShard:
    """A shard seen from elsewhere; can be sent to other actors.

    Where it dies and Ray makes it anew, who calls waits; or, unless it ``waits``, a step's calls raise ShardAway.
    """

    actor: Any
    waits: bool = True

    def call(self, method: str, *arguments: Any) -> Pending:
        """Start a call; the result waits for its answer. The calls of every step go packed."""
        if method == "pull":
            keys, *after = arguments
            pulled = self._of_a_step("pull", PackedKeys.of(keys), *after)
            return lambda: pulled().unpack()
        if method == "prefetch":
            worker, step, keys = arguments
            read = self._of_a_step("prefetch", worker, step, PackedKeys.of(keys))
            return lambda: read().unpack()
        if method == "push":
            pushed = self._of_a_step("push", *_packed(*arguments))
            return lambda: _unpacked(pushed())
        if method in ("hold", "write", "look", "ready"):
            answer = getattr(self.actor, method).remote(*arguments)
        else:
            answer = self.actor.run.remote(method, *arguments)
        return lambda: wait_for(answer)

    def back(self) -> Callable[[], bool]:
        """Whether a shard that was away is there again, or never will be."""
        ready = self.actor.ready.remote()
        return lambda: bool(ray.wait([ready], timeout=0)[0])

    def _of_a_step(self, method: str, *arguments: Any) -> Pending:
        called = getattr(self.actor, method)
        if self.waits:
            waited = called.remote(*arguments)
            return lambda: wait_for(waited)
        asked = called.options(max_task_retries=0).remote(*arguments)

        def answer() -> Any:
            try:
                return wait_for(asked)
            except ActorDied as error:
                raise ShardAway(str(error)) from error

        return answer


def _packed(part: Part, refresh: bool) -> tuple[Part, PackedKeys, PackedRows, PackedKeys, bool]:
    keys = PackedKeys.of({name: arrays[0] for name, arrays in part.gradients.items()})
    rows = PackedRows.of({name: arrays[1] for name, arrays in part.gradients.items()})
    counts: dict[str, Keys] = {name: arrays[2] for name, arrays in part.gradients.items() if len(arrays) == 3}
    return replace(part, gradients={}), keys, rows, PackedKeys.of(counts), refresh


def _unpacked(answer: tuple[PackedKeys, PackedRows] | None) -> Refreshed | None:
    if answer is None:
        return None
    positions, rows = answer[0].unpack(), answer[1].unpack()
    return {name: (positions[name], rows[name]) for name in positions}


def start_shards(
    groups: Sequence[RowGroup], num_shards: int, begin: Begin | None = None, placement: Placement | None = None
) -> list[RayShard]:
    """A parameter server of ``num_shards`` actors; ShardedRows and WorkerRows are clients to it."""
    begin = begin or Begin(start=Snapshot((0,), {}))
    return [
        RayShard(
            start_actor(
                RowShard,
                list(groups),
                shard,
                num_shards,
                begin,
                threads=_threads(begin),
                placement=placement,
                restarts=begin.restarts,
            )
        )
        for shard in range(num_shards)
    ]


def _threads(begin: Begin) -> int:
    """Calls that a shard answers at once. Those that wait for a step are among them: of each worker that there may be,
    as many as it has steps under way, what it reads ahead, and one that is told at the end.
    """
    most_workers = max(len(begin.position), len(begin.members))
    return max(_MIN_THREADS, _MIN_THREADS // 4 + (3 + begin.staleness) * most_workers)


def check_started(shards: Sequence[RayShard]) -> None:
    """Wait until all shards hold their rows; what kept one from it is raised."""
    wait_all([shard.call("ready") for shard in shards])
