"""What has died in a run: how often that may be, what replaces it in ``available`` recovery, and what is told of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from recsys.errors import ServiceError
from recsys.runtime.actors import ActorDied
from recsys.runtime.metrics import RunMetrics
from recsys.runtime.run import OnlineRun
from recsys.runtime.settings import OnlineSettings
from recsys.training.checkpoint import Checkpoints


@dataclass(frozen=True)
class Recovery:
    """Something died, and what became of it."""

    mode: str  # exact, or available
    what: str
    step: int  # that training goes on from
    seconds: float  # until it did


@dataclass
class _Life:
    """A shard since it was made (anew), and the steps that it lost by that.

    Where one dies twice between two checkpoints, it returns to the same twice: the steps between that and its first
    return are lost once.
    """

    made_again_at: int
    made_again_from: int  # step
    known: int = 0  # of its lost steps: counted for the life before
    counted: int = 0

    @classmethod
    def after(cls, former: "_Life | None", look: Mapping[str, int]) -> "_Life":
        """The life that a look shows, which is another than the ``former``."""
        known = 0
        if former is not None and former.made_again_at:
            known = max(0, former.made_again_from + former.known + former.counted - look["made_again_from"])
        return cls(look["made_again_at"], look["made_again_from"], known)

    def newly_lost(self, lost: int) -> int:
        """How many more steps are lost than were counted."""
        newly = max(0, lost - self.known - self.counted)
        self.counted += newly
        return newly


class Recoveries:
    """Those of one job, over all that it begins anew. ``noted`` are the ones that came to their end."""

    def __init__(self, settings: OnlineSettings, checkpoints: Checkpoints) -> None:
        self.noted: list[Recovery] = []
        self._settings, self._checkpoints = settings, checkpoints
        self._metrics = RunMetrics()
        self._lives: dict[int, _Life] = {}  # by shard
        self.lost_steps = 0  # of single shards, where they alone went back to a checkpoint
        self._looked_at = time.monotonic()
        self._replaced: dict[Any, tuple[int, float]] = {}  # by answer of who comes: which worker, and when it died

    def note(self, mode: str, what: str, step: int, died_at: float) -> None:
        """Something is back, and training goes on from a step."""
        recovery = Recovery(mode, what, step, time.monotonic() - died_at)
        self.noted.append(recovery)
        self._metrics.recovered(recovery.seconds)

    def all_go_back(self, error: ServiceError) -> None:
        """Everything begins anew, who was on the way too; ServiceError where that was often enough."""
        self._replaced.clear()
        self._lives.clear()
        self._check_hope(error)

    def replace_worker(self, run: OnlineRun, worker: int) -> None:
        """Put another in the place of a worker that has died; ServiceError where that was often enough."""
        died_at = time.monotonic()
        self._check_hope(ActorDied(f"worker {worker} died"))
        run.replace_worker(worker)
        self._replaced[run.workers[worker].ready.remote()] = (worker, died_at)

    def see_to_replaced_workers(self, run: OnlineRun) -> None:
        """Note those that are up by now."""
        if not self._replaced:
            return
        up, _ = ray.wait([*self._replaced], num_returns=len(self._replaced), timeout=0)
        for answer in up:
            worker, died_at = self._replaced.pop(answer)
            self.note("available", f"worker {worker}", run.store.look()[0]["applied"], died_at)

    def see_to_lost_shards(self, run: OnlineRun) -> None:
        """Shards that Ray has made anew: who takes part, and how many steps they have lost."""
        looks = run.store.look()
        for shard, look in enumerate(looks):
            known = self._lives.get(shard)
            if look["made_again_at"] > (known.made_again_at if known else 0):
                self._check_hope(ActorDied(f"shard {shard} died"))
                run.expect_workers(shard)
                self.note("available", f"shard {shard}", look["applied"], self._looked_at)
        self._count_lost(looks)
        self._looked_at = time.monotonic()

    def count_lost_steps(self, run: OnlineRun) -> None:
        """Those, too, of shards that came back when nobody trained any more."""
        self._count_lost(run.store.look())

    def _count_lost(self, looks: Sequence[Mapping[str, int]]) -> None:
        for shard, look in enumerate(looks):
            life = self._lives.get(shard)
            if life is None or life.made_again_at != look["made_again_at"]:
                life = self._lives[shard] = _Life.after(life, look)
            if newly_lost := life.newly_lost(look["lost"]):
                self.lost_steps += newly_lost
                self._metrics.lost_steps(newly_lost)

    def _check_hope(self, error: ServiceError) -> None:
        if len(self.noted) + len(self._replaced) >= self._settings.recovery.max_recoveries:
            kept = self._checkpoints.names()[-1:]
            raise ServiceError(
                f"{error}; {len(self.noted)} recoveries are enough (recovery.max_recoveries); go on from "
                f"{kept[0] if kept else 'the beginning'} with resume={self._settings.folder}"
            ) from error
