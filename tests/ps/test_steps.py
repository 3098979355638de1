"""Steps in parts: in order, once, when all are in; and reads between two of them."""

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.ps.steps import Part, Steps, TooLate, combined
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.policies import FrequencyAdmission
from recsys.rows.store import Gradients, RowGroup

GROUP = RowGroup(name="item", width=2, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0.0))


def store() -> LocalRows:
    return LocalRows([GROUP])


def gradient(key: int, value: float) -> dict[str, Gradients]:
    return {"item": (np.array([key]), np.full((1, 2), value, np.float32))}


def part(worker: int, step: int, key: int = 7, value: float = 1.0, **fields: Any) -> Part:
    return Part(worker, step, gradient(key, value), event_time_ms=step, **fields)


def row(rows: LocalRows, key: int = 7) -> float:
    return float(rows.pull({"item": np.array([key])})["item"][0, 0])


def answered(*futures: "Future[Any]") -> list[bool]:
    return [future.done() for future in futures]


def test_a_step_waits_for_all_its_parts_and_is_their_weighted_mean() -> None:
    rows = store()
    steps = Steps(rows, members={0: 1, 1: 1})
    second = steps.add(part(1, 1, value=4.0, weight=1))
    assert (steps.applied, steps.num_waiting, row(rows), second.done()) == (0, 1, 0.0, False)
    first = steps.add(part(0, 1, value=2.0, weight=3))
    assert (steps.applied, steps.num_waiting, row(rows)) == (1, 0, -2.5)
    assert answered(first, second) == [True, True]


def test_one_part_is_pushed_as_it_is() -> None:
    only = part(0, 1, weight=5)
    assert combined([only])["item"] is only.gradients["item"]
    assert combined([replace(only, gradients={}), only])["item"] is only.gradients["item"]  # an empty part is no part


def test_parts_of_no_weight_are_nothing_to_learn() -> None:
    both = combined([part(0, 1, weight=0), part(1, 1, weight=0)])
    assert both["item"][1].tolist() == [[0, 0], [0, 0]]


def test_counts_of_occurrences_go_along() -> None:
    def counted(worker: int, count: int) -> Part:
        keys, ones = np.array([7]), np.ones((1, 2), np.float32)
        return Part(worker, 1, {"item": (keys, ones, np.array([count]))}, 0)

    rows = LocalRows([replace(GROUP, admission=FrequencyAdmission(occurrences=5))])
    steps = Steps(rows, members={0: 1, 1: 1})
    steps.add(counted(0, 2))
    steps.add(counted(1, 3))
    assert rows.num_rows() == {"item": 1}


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_worker_runs_ahead_by_the_staleness_and_no_further(staleness: int) -> None:
    steps = Steps(store(), staleness=staleness, members={0: 1, 1: 1})
    ahead = [steps.add(part(0, step)) for step in range(1, 6)]
    assert answered(*ahead) == [step <= staleness for step in range(1, 6)]
    steps.add(part(1, 1))
    assert answered(*ahead) == [step <= staleness + 1 for step in range(1, 6)]
    assert steps.applied == 1


def test_the_same_part_again_changes_nothing() -> None:
    rows = store()
    steps = Steps(rows, members={0: 1, 1: 1})
    steps.add(part(0, 1))
    steps.add(part(0, 1, value=100.0))  # sent again while it waits
    steps.add(part(1, 1))
    assert row(rows) == -1.0
    assert steps.add(part(0, 1, value=100.0)).done()  # and after it was applied
    assert (row(rows), steps.applied) == (-1.0, 1)


def test_the_position_is_that_of_all_workers_after_the_step() -> None:
    steps = Steps(store(), members={0: 1, 1: 1}, position={0: (5, 50), 1: (6, 60)})
    steps.add(part(0, 1, position={0: (7, 70)}))
    assert steps.position == {0: (5, 50), 1: (6, 60)}
    steps.add(part(1, 1, position={1: (8, 80)}))
    assert steps.position == {0: (7, 70), 1: (8, 80)}


def test_workers_leave_and_join() -> None:
    rows = store()
    steps = Steps(rows, members={0: 1, 1: 1})
    waits = steps.add(part(0, 1))
    steps.leave(1)
    assert (steps.applied, waits.done()) == (1, True)
    with pytest.raises(TooLate):
        steps.join(1, 1)
    steps.join(1, 3)
    steps.add(part(0, 2))
    assert steps.applied == 2  # it takes part from the third on
    steps.add(part(0, 3))
    assert steps.applied == 2
    steps.add(part(1, 3))
    assert steps.applied == 3
    steps.leave(0)
    steps.leave(1)
    steps.join(5, 10)
    steps.add(part(5, 10))
    assert steps.applied == 10  # nobody took the steps between


def test_what_a_worker_took_before_workers_changed_is_not_taken_for_its_namesakes() -> None:
    """Worker 1 of two reads other partitions than worker 1 of three: where it stood says nothing of that one."""
    steps = Steps(store(), members={0: 1, 1: 1})
    for worker in (0, 1):
        steps.add(part(worker, 1))
    steps.regroup({0: 1, 1: 1})  # the same workers
    assert {worker: step for worker, (step, _) in steps.taken.items()} == {0: 1, 1: 1}
    steps.regroup({0: 2, 1: 2, 2: 2})
    assert steps.taken == {}
    steps.add(part(1, 2))
    assert steps.taken[1][0] == 2


def test_between_two_steps_a_shard_can_be_read() -> None:
    rows = store()
    steps = Steps(rows, members={0: 1})
    now, later = steps.at(0, lambda: row(rows)), steps.at(2, lambda: row(rows))
    assert (now.result(0), later.done()) == (0.0, False)
    for step in (1, 2, 3):
        steps.add(part(0, step))
    assert later.result(0) == -2.0
    with pytest.raises(TooLate):
        steps.at(2, lambda: None)
    waits = steps.at(9, lambda: row(rows))
    steps.leave(0)
    assert waits.result(0) == -3.0  # nobody will take a ninth


def test_an_appointment_that_fails_fails_alone() -> None:
    steps = Steps(store(), members={0: 1})
    failed = steps.at(1, lambda: 1 / 0)
    steps.add(part(0, 1))
    assert isinstance(failed.exception(0), ZeroDivisionError)
    assert steps.applied == 1


def test_a_lost_store_takes_the_first_whole_step_and_counts_what_is_missing() -> None:
    rows = store()
    steps = Steps(rows, members={0: 1, 1: 1}, applied=10, lost=True)
    assert steps.after(40).done()  # nobody can be made to wait for what was lost
    steps.add(part(0, 15))
    appointment = steps.at(12, lambda: None)
    steps.add(part(0, 16))
    steps.add(part(1, 16))
    assert (steps.applied, steps.num_lost, row(rows)) == (16, 5, -1.0)
    assert isinstance(appointment.exception(0), TooLate)
    steps.add(part(1, 15))  # of a step that is over
    assert steps.applied == 16
    assert not steps.after(17).done()


def test_a_store_that_workers_went_on_without_takes_their_first_whole_step() -> None:
    """It was there all the time, and waits for a part that will never come."""
    rows = store()
    steps = Steps(rows, members={0: 1, 1: 1})
    waits = steps.add(part(0, 1))
    assert not waits.done()
    steps.let_go()
    assert waits.done() and steps.is_lost
    for worker in (0, 1):
        steps.add(part(worker, 4))
    assert (steps.applied, steps.num_lost, steps.is_lost) == (4, 3, False)
    steps.let_go()  # the other worker notices later, and nothing is missing
    for worker in (0, 1):
        steps.add(part(worker, 5))
    assert (steps.applied, steps.num_lost) == (5, 3)


def test_a_lost_store_is_told_where_the_others_stand_when_nobody_takes_steps_any_more() -> None:
    steps = Steps(store(), applied=10, lost=True, position={0: (10, 80)})
    steps.catch_up(14, {0: (14, 112), 1: (7, 56)})
    assert (steps.applied, steps.num_lost, steps.is_lost, steps.expected) == (14, 4, False, False)
    assert steps.position == {0: (14, 112), 1: (7, 56)}
    assert steps.at(14, lambda: "now").result(0) == "now"


def test_a_store_made_anew_takes_no_step_before_it_knows_who_takes_part() -> None:
    """The worker that has come since the run began would be left out."""
    rows = store()
    steps = Steps(rows, applied=10, lost=True)
    for worker in (0, 1):
        assert steps.add(part(worker, 20, key=worker)).done()  # nobody waits
    assert (steps.applied, steps.is_lost) == (10, True)
    steps.expect({0: 1, 1: 1})
    assert (steps.applied, steps.num_lost, row(rows, 0), row(rows, 1)) == (20, 9, -0.5, -0.5)


@pytest.mark.parametrize("lost", [True, False])
def test_who_has_left_or_joined_a_store_meanwhile_is_known_better(lost: bool) -> None:
    """What is told of workers was seen a moment before: a worker that left then would be waited for for ever."""
    steps = Steps(store(), applied=10, members=None if lost else {0: 1, 1: 1}, lost=lost)
    steps.leave(1)
    steps.join(2, 12)
    steps.expect({0: 1, 1: 1})
    assert [steps.counts_on(worker) for worker in (0, 1, 2)] == [True, False, True]
    steps.add(part(0, 11))
    assert steps.applied == 11  # no part of worker 2 yet
    steps.add(part(0, 12))
    assert steps.applied == 11
    steps.add(part(2, 12))
    assert steps.applied == 12


def test_what_a_worker_took_before_it_left_is_not_gone_on_with() -> None:
    steps = Steps(store(), members={0: 1, 1: 1})
    for worker in (0, 1):
        steps.add(part(worker, 1))
    steps.leave(1)
    assert steps.taken == {0: (1, {})}


def test_a_store_is_not_told_where_the_others_stand_once_somebody_takes_part_again() -> None:
    steps = Steps(store(), applied=10, lost=True)
    steps.join(0, 21)
    steps.catch_up(20, {})
    steps.add(part(0, 21))
    steps.expect({})
    assert (steps.applied, steps.num_lost) == (21, 10)


def test_a_step_that_can_not_be_applied_fails_all_who_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = store()
    steps = Steps(rows, members={0: 1, 1: 1})
    first = steps.add(part(0, 1))

    def full(*_: object) -> None:
        raise MemoryError("no room for another row")

    monkeypatch.setattr(rows, "push", full)
    with pytest.raises(MemoryError, match="no room"):
        steps.add(part(1, 1))
    with pytest.raises(MemoryError, match="no room"):
        first.result(0)
