"""What is told of shards that die again and again: each lost step once, and no more deaths than are allowed."""

from types import SimpleNamespace
from typing import Any

import pytest

from recsys.errors import ServiceError
from recsys.ps.steps import Part, Steps
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup
from recsys.runtime.recoveries import Recoveries


def a_life(began_at: int, first_step: int) -> dict[str, int]:
    """A look at a shard that returned to a checkpoint, and took a step again when the others were there."""
    steps = Steps(LocalRows([RowGroup(name="item", width=1, optimizer=SGD(learning_rate=1.0))]),
                  members={0: 1}, applied=began_at, lost=True)  # fmt: skip
    steps.add(Part(0, first_step, {}, 0))
    return {"lost": steps.num_lost, "applied": steps.applied, "made_again_from": began_at}


def recoveries(max_recoveries: int) -> tuple[Recoveries, list[dict[str, int]], Any]:
    """Recoveries of a run, the looks at its one shard, and the run."""
    settings: Any = SimpleNamespace(recovery=SimpleNamespace(max_recoveries=max_recoveries), folder="runs/one")
    looks: list[dict[str, int]] = []
    run = SimpleNamespace(store=SimpleNamespace(look=lambda: looks[-1:]), expect_workers=lambda shard: None)
    checkpoints: Any = SimpleNamespace(names=lambda: ["checkpoint-000010"])
    return Recoveries(settings, checkpoints), looks, run


@pytest.mark.parametrize(
    ("lives", "lost_steps"),
    [
        ([(10, 311)], 300),
        ([(10, 311), (10, 711)], 700),  # 11 to 310, and then 11 to 710
        ([(10, 311), (10, 711), (10, 712)], 701),
        ([(10, 311), (200, 711)], 700),
        ([(10, 311), (400, 711)], 300 + 310),
    ],
)
def test_a_step_is_lost_once(lives: list[tuple[int, int]], lost_steps: int) -> None:
    noted, looks, run = recoveries(10)
    looks.append({"lost": 0, "applied": 300, "made_again_from": 0, "made_again_at": 0})
    noted.see_to_lost_shards(run)
    for at, life in enumerate(lives, start=1):
        looks.append({**a_life(*life), "made_again_at": at})
        noted.see_to_lost_shards(run)
        noted.see_to_lost_shards(run)
    assert noted.lost_steps == lost_steps
    assert [recovery.what for recovery in noted.noted] == ["shard 0"] * len(lives)


def test_shards_may_not_die_for_ever() -> None:
    noted, looks, run = recoveries(max_recoveries=2)
    for at in (1, 2):
        looks.append({**a_life(10, 20), "made_again_at": at})
        noted.see_to_lost_shards(run)
    looks.append({**a_life(10, 20), "made_again_at": 3})
    with pytest.raises(ServiceError, match=r"shard 0 died; 2 recoveries are enough .* go on from checkpoint-000010"):
        noted.see_to_lost_shards(run)
