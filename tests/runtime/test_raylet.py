"""A machine that is gone, with all that ran on it: the run goes on elsewhere, as if nothing had happened."""

import random
from collections.abc import Iterator

import pytest
from chaos import Chaos, Result, chaos
from kills import Kill


@pytest.fixture(scope="module")
def runs() -> Iterator[Chaos]:
    with chaos() as started:
        yield started


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", ["training", "checkpoint"])
def test_exact_a_killed_raylet_changes_nothing(runs: Chaos, moment: str) -> None:
    """Bit for bit (``chaos.judge``); actors that shared the node with others of the run ended with it."""
    kill = Kill("raylet", moment, examples=600, at=0.5)
    result = runs.disturbed(Result(0, "exact", workers=2, shards=2), [kill], random.Random(0))
    assert result.ok, result.error
    [killed] = result.killed
    assert (killed.victim, killed.actors > 0) == ("raylet", True)
    assert killed.where.startswith(moment) or moment == "training"
    assert len(result.recovery_seconds) == 1
