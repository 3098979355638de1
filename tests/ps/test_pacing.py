"""A worker reads ahead where its steps are the quicker for it."""

import pytest

from recsys.ps.pacing import Pace


class Steps:
    """Steps whose length this test decides, by the seconds a key that each way takes."""

    def __init__(self, asked_for: float, ahead: float, **settings: int) -> None:
        self.seconds, self.now = {False: asked_for, True: ahead}, 0.0
        self.pace = Pace(clock=lambda: self.now, **settings)
        self.ways: list[bool] = []

    def take(self, num_steps: int, slow: frozenset[int] = frozenset()) -> None:
        for step in range(num_steps):
            num_keys = 100 + 37 * (step % 5)
            self.pace.began()
            way = self.pace.reads_ahead
            self.ways.append(way)
            self.now += num_keys * self.seconds[way] * (50 if step in slow else 1)
            self.pace.ended(num_keys)
            self.now += 10.0  # the stream is slow: neither way's doing


@pytest.mark.parametrize("ahead", [0.9, 1.1])
def test_the_quicker_way_is_kept_and_both_are_tried_again(ahead: float) -> None:
    steps = Steps(asked_for=1.0, ahead=ahead, trial_steps=10, settled_steps=50)
    steps.take(140, slow=frozenset({5, 17}))  # one pause in a trial decides nothing
    quicker = ahead < 1
    assert steps.ways == [*[True] * 10, *[False] * 10, *[quicker] * 50, *[quicker] * 10, *[not quicker] * 10,
                          *[quicker] * 50]  # fmt: skip


def test_what_was_the_slower_is_taken_once_it_is_the_quicker() -> None:
    steps = Steps(asked_for=1.0, ahead=2.0, trial_steps=10, settled_steps=50)
    steps.take(70)
    steps.seconds[True] = 0.5  # the shards have moved to machines of their own
    steps.take(70)
    assert not any(steps.ways[20:70])
    assert all(steps.ways[90:])


@pytest.mark.parametrize("reads_ahead", [True, False])
def test_it_can_be_told(reads_ahead: bool) -> None:
    pace = Pace(reads_ahead=reads_ahead, trial_steps=1, settled_steps=1)
    for _ in range(10):
        pace.began()
        pace.ended(num_keys=1)
        assert pace.reads_ahead is reads_ahead
