"""Runs that something is done to, and what two runs that learned the same have in common."""

from collections.abc import Callable

import numpy as np

from recsys.rows.store import Snapshot
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.watching import Progress
from recsys.training.archive import read_archive
from recsys.training.checkpoint import Checkpoint
from recsys.training.predictions import read_predictions

QUICK = ("batch.max_examples=16", "checkpoint.every_seconds=0.4", "serving.sync_seconds=0.5", "replay.limit=1500")


class Once:
    """Does something the first time that so many examples were learned."""

    def __init__(self, examples: int, action: Callable[[], object]) -> None:
        self.done = False
        self._examples, self._action = examples, action

    def __call__(self, progress: Progress) -> None:
        if not self.done and progress.examples >= self._examples:
            self.done = True
            self._action()


def assert_same_rows(one: Snapshot, other: Snapshot) -> None:
    """Bit for bit: keys, rows and optimizer state, event times and counters."""
    assert one.groups.keys() == other.groups.keys()
    for name, a in one.groups.items():
        b = other.groups[name]
        order, its_order = np.argsort(a.keys_U), np.argsort(b.keys_U)
        np.testing.assert_array_equal(a.keys_U[order], b.keys_U[its_order])
        np.testing.assert_array_equal(a.rows_UW[order], b.rows_UW[its_order])
        np.testing.assert_array_equal(a.event_times_U[order], b.event_times_U[its_order])
        for state in a.state:
            np.testing.assert_array_equal(a.state[state][order], b.state[state][its_order])
        assert a.num_steps == b.num_steps


def assert_same_run(one: tuple[OnlineSettings, Checkpoint], other: tuple[OnlineSettings, Checkpoint]) -> None:
    """The same rows in the end, the same predictions on the way, and the same archive of what was learned."""
    assert_same_rows(one[1].rows, other[1].rows)
    mine, theirs = (read_predictions(settings.folder / "predictions") for settings in (one[0], other[0]))
    assert mine.column("request_id").to_pylist() == theirs.column("request_id").to_pylist()
    np.testing.assert_array_equal(mine.column("probability").to_numpy(), theirs.column("probability").to_numpy())
    archived, others = (read_archive(its.folder / "archive", its.blueprint.features) for its, _ in (one, other))
    wall_clock = ["read_at_ms"]
    assert archived.drop_columns(wall_clock).equals(others.drop_columns(wall_clock))
    users = [
        sorted(repr(history) for state in checkpoint.joiners for history in state["features"]["histories"])
        for _, checkpoint in (one, other)
    ]
    assert users[0] == users[1]
