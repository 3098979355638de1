"""Kills that fall where they are meant to: at so many examples, after a file of a checkpoint, as actors come back."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from recsys.runtime.loopback import LoopbackCluster, LoopbackNode

_LOOK_SECONDS = 0.02
_WATCH_SECONDS = 0.001  # while a checkpoint is awaited: its files follow one another within milliseconds
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Kill:
    """What is to be killed, and when.

    In ``training`` and in a ``checkpoint`` not before so many examples were learned; in a checkpoint once the share
    ``at`` of its files is there; in ``recovery`` ``at`` seconds after the first new actor of a class is seen.
    """

    victim: str  # class of an actor, "driver", "raylet", or a service that the killer was told of
    moment: str  # "training", "checkpoint" or "recovery"
    examples: int = 0
    at: float = 0.0
    sign: str = "RowShard"  # the class whose new actor shows that a recovery is under way


@dataclass
class Killed:
    """What was killed, and where that fell by what the run's folder shows: ``checkpoint after FILE``, say."""

    victim: str
    where: str
    actors: int = 0  # of the run, that ended with it; of those, so many shards
    shards: int = 0
    step: int = 0  # of the newest checkpoint then
    step_back: int | None = None  # of the first that was begun later: training went on
    seconds: float | None = None  # until that was complete


class Reached(NamedTuple):
    """The newest complete checkpoint: its number, its step, and the examples that were learned."""

    number: int = -1
    step: int = 0
    examples: int = 0


class Killer:
    """Carries out kills, one after the other, on runs whose actors live on a cluster's nodes."""

    def __init__(
        self,
        cluster: LoopbackCluster,
        checkpoints: Path,
        kills: Sequence[Kill],
        draw: random.Random,
        services: Mapping[str, Callable[[], list[int]]] | None = None,
    ) -> None:
        self._cluster, self._checkpoints, self._draw = cluster, checkpoints, draw
        self._services = services or {}  # what gives the processes of each
        self.left, self.killed = list(kills), list[Killed]()
        self._others: set[int] = set()  # actors of runs, and of drivers, before this one
        self._seen: set[int] = set()  # and those of before the last kill
        self._at, self._newest = 0.0, -1  # of the last kill: its time, and the newest checkpoint that was begun

    def follow(self, job: "subprocess.Popen[bytes]") -> None:
        """Kill what is to be killed of a job that was just started, until it ends; a driver is the last of its job."""
        self._others |= set(actors_of(self._cluster))
        self._seen |= self._others
        while job.poll() is None:
            if self.killed and self.killed[-1].step_back is None:
                self._note_return()
            if self.left and self._is_time(self.left[0]):
                if self._carry_out(self.left[0], job):
                    self.left.pop(0)
            elif not self.left and self._is_back:
                return
            time.sleep(_LOOK_SECONDS)

    # --- when

    @property
    def _is_back(self) -> bool:
        return not self.killed or self.killed[-1].step_back is not None

    def _is_time(self, kill: Kill) -> bool:
        if kill.moment == "recovery":
            if not any(name.startswith(f"ray::{kill.sign}") for name in self._actors_since(self._seen).values()):
                return False
            time.sleep(kill.at)
            return True
        return self._is_back and reached(self._checkpoints).examples >= kill.examples

    def _note_return(self) -> None:
        """A checkpoint that was begun after the last kill is complete: everybody is back."""
        now = reached(self._checkpoints)
        if now.number > self._newest:
            for killed in self.killed:
                if killed.step_back is None:
                    killed.step_back, killed.seconds = now.step, round(time.monotonic() - self._at, 2)

    # --- what

    def _carry_out(self, kill: Kill, job: "subprocess.Popen[bytes]") -> bool:
        """Whether something was killed."""
        names = self._actors_since(self._seen if kill.moment == "recovery" else self._others)
        victims = self._victims(kill, names, job)
        if victims and kill.moment == "checkpoint":
            self._wait_for_files(kill.at, job)
        if job.poll() is not None or not [pid for pid in victims if killed(pid)]:
            return False
        where = "training"
        if kill.moment == "recovery":
            where = "recovery" if self.killed else "start"
        elif kill.moment == "checkpoint" or is_being_written(self._checkpoints):
            where = f"checkpoint after {newest_file(self._checkpoints)}"
        ended = [name for pid in victims if _is_actor(name := names.get(pid, ""))]
        shards = sum(name.startswith("ray::RowShard") for name in ended)
        now = reached(self._checkpoints)
        self.killed.append(Killed(kill.victim, where, len(ended), shards, now.step))
        self._at, self._newest = time.monotonic(), max([*map(_number_of, _begun(self._checkpoints)), now.number])
        self._seen |= set(names)
        return True

    def _victims(self, kill: Kill, names: dict[int, str], job: "subprocess.Popen[bytes]") -> list[int]:
        """Process ids: of a raylet on which the run has actors, it and all that it has started; nobody is told."""
        if kill.victim == "driver":
            return [job.pid]
        if kill.victim in self._services:
            return self._services[kill.victim]()
        if kill.victim == "raylet":
            alive = [processes_of(node) for node in self._cluster.nodes if node.process.poll() is None]
            used = [pids for pids in alive if any(_is_actor(names.get(pid, "")) for pid in pids)]
            return self._draw.choice(used) if used else []
        found = [pid for pid, name in names.items() if name.startswith(f"ray::{kill.victim}")]
        return [self._draw.choice(found)] if found else []

    def _actors_since(self, known: set[int]) -> dict[int, str]:
        return {pid: name for pid, name in actors_of(self._cluster).items() if pid not in known}

    def _wait_for_files(self, share: float, job: "subprocess.Popen[bytes]") -> None:
        """Returns as soon as a share of a checkpoint's files is there, of a checkpoint that is begun from now on."""
        newest = max(map(_number_of, _begun(self._checkpoints)), default=0)
        wanted = 1 + int(
            share * len(files_of(self._checkpoints / f"checkpoint-{reached(self._checkpoints).number:06}"))
        )
        while job.poll() is None:
            for name in _begun(self._checkpoints):
                if _number_of(name) > newest and (_MANIFEST in (files := files_of(self._checkpoints / name))
                                                  or len(files) >= wanted):  # fmt: skip
                    return
            time.sleep(_WATCH_SECONDS)


# --- processes


def actors_of(cluster: LoopbackCluster) -> dict[int, str]:
    """Names (``ray::RowShard.run``) of a cluster's actors, by process id."""
    found = {}
    for node in (cluster.head, *cluster.nodes):
        for process in _below(node):
            try:
                name = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if name.startswith("ray::"):
                found[process.pid] = name
    return found


def _is_actor(name: str) -> bool:
    return any(name.startswith(f"ray::{kind}") for kind in ("RowShard", "WorkerActor", "JoinerActor", "PublisherActor"))


def processes_of(node: LoopbackNode) -> list[int]:
    """A node's processes, its guard first: what that has started can not find out before it is killed itself."""
    return [node.guard_pid, *(process.pid for process in _below(node))]


def _below(node: LoopbackNode) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(node.guard_pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return


def killed(pid: int) -> bool:
    """SIGKILL, as a machine that fails would; False where there is no such process any more."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


# --- what a run's folder shows


def reached(checkpoints: Path) -> Reached:
    """The newest checkpoint that is complete, as far as the run lets it be read: old ones are removed all the time."""
    for name in reversed(_begun(checkpoints)):
        try:
            if (checkpoints / name / _MANIFEST).exists():
                state = json.loads((checkpoints / name / "state.json").read_bytes())
                examples = sum(number for _, number in state["position"].values())
                return Reached(_number_of(name), state["step"], examples)
        except (FileNotFoundError, ValueError):
            continue
    return Reached()


def is_being_written(checkpoints: Path) -> bool:
    """Whether the newest checkpoint has files and is not complete."""
    files = files_of(checkpoints / _begun(checkpoints)[-1]) if _begun(checkpoints) else []
    return bool(files) and _MANIFEST not in files


def newest_file(checkpoints: Path) -> str:
    """The name of the file that came last to the newest checkpoint; ``begin`` where none has."""
    files = files_of(checkpoints / _begun(checkpoints)[-1])
    return _MANIFEST if _MANIFEST in files else ["begin", *files][-1]


def files_of(folder: Path) -> list[str]:
    """Names of files in the order in which they came; none where the folder is gone."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in sorted(entries, key=lambda entry: (entry.stat().st_ctime_ns, entry.name))]
    except FileNotFoundError:
        return []


def _begun(checkpoints: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(checkpoints) if name.startswith("checkpoint-"))
    except FileNotFoundError:
        return []


def _number_of(name: str) -> int:
    return int(name.removeprefix("checkpoint-"))
