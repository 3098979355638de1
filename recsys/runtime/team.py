"""A team's members as Ray actors: see ``recsys.training.team``."""

from collections.abc import Sequence
from typing import Any

import ray
import torch

from recsys.models.computing import Computing
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import ShardedRows
from recsys.ps.worker import WorkerRows
from recsys.runtime.actors import Placement, start_actor, wait_for
from recsys.runtime.near import near
from recsys.runtime.shards import RayShard
from recsys.training.team import Team, TeamMember
from recsys.training.trainer import Trainer


class TeamWorker(TeamMember):
    """The actor."""

    def __init__(
        self,
        worker: int,
        blueprint: Blueprint,
        computing: Computing,
        shards: Sequence[RayShard],
        num_steps: int,
        clip_norm: float | None,
    ) -> None:
        torch.set_num_threads(1)  # cores are shared with the other workers and the shards
        recommender = Recommender(blueprint).compute(computing)
        rows = WorkerRows(recommender.groups, near(shards, recommender.groups), worker=worker)
        super().__init__(Trainer(recommender, rows, worker=worker, num_steps=num_steps, clip_norm=clip_norm))


def start_team(
    recommender: Recommender,
    shards: Sequence[RayShard],
    *,
    num_workers: int,
    num_steps: int,
    clip_norm: float | None,
    placement: Placement,
) -> Team:
    """A team of actors; ServiceError, from what is asked of it, where a worker or a shard has died."""
    told = recommender.blueprint, recommender.computing, list(shards), num_steps, clip_norm
    actors = [start_actor(TeamWorker, worker, *told, placement=placement) for worker in range(num_workers)]

    def ask(method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return _all([getattr(actor, method).remote(*of) for actor, of in zip(actors, arguments, strict=False)])

    store = ShardedRows(recommender.groups, shards)
    return Team(recommender, store, ask, num_workers=num_workers, num_steps=num_steps)


def _all(answers: Sequence[Any]) -> list[Any]:
    """All answers in order; an error as soon as there is one: the others may wait for who raised it."""
    waiting = list(answers)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        wait_for(done)
    return [wait_for(answer) for answer in answers]
