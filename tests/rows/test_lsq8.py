"""Rows whose step is learned: LSQ's gradient, unbiased rounding, and rows that come back to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.hashing import Floats
from recsys.rows.formats import LSQ8, Stored
from recsys.rows.initial import Initial
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.rows.lsq8_kernels import learn_steps
from recsys.rows.optimizers import SGD, Adagrad
from recsys.rows.policies import LearnedStep
from recsys.rows.sizes import row_bytes
from recsys.rows.store import RowGroup

GROUP = RowGroup(
    name="t",
    width=5,
    optimizer=SGD(learning_rate=0.1),
    initial=Initial(scale=0.02),
    seed=7,
    row_format="lsq8",
    learned_step=LearnedStep(initial=0.01, rate=1e-3),
)


def encoded(rows_UW: Floats, seed: int | None, step: int = 0) -> tuple[Stored, Floats]:
    """Codes and steps; rounded to the nearest where there is no seed."""
    slots_U = np.arange(len(rows_UW))
    values, steps = LSQ8.empty(*rows_UW.shape)
    if seed is None:
        LSQ8.encode_nearest(values, steps, slots_U, rows_UW)
    else:
        LSQ8.encode(values, steps, slots_U, slots_U, rows_UW, seed, step)
    return values, steps


def decoded(values: Stored, steps: Floats) -> Floats:
    rows = np.empty((len(values), values.shape[1] + 1), np.float32)
    LSQ8.decode(values, steps, np.arange(len(values)), rows)
    return rows


# --- the gradient


def quantised(rows_UD: torch.Tensor, steps_U1: torch.Tensor) -> torch.Tensor:
    """The oracle: LSQ with its straight-through estimate, for autograd."""
    codes = rows_UD / steps_U1
    within = codes.clamp(-128, 127)
    return (within + (within.round() - within).detach()) * steps_U1


def test_a_step_moves_against_lsqs_gradient() -> None:
    draw = np.random.default_rng(0)
    steps = draw.uniform(0.005, 0.02, 40).astype(np.float32)
    rows = draw.normal(size=(40, 7)).astype(np.float32)  # many beyond 127 steps
    gradients = draw.normal(size=(40, 8)).astype(np.float32)
    steps_U1 = torch.from_numpy(steps)[:, None].requires_grad_()
    loss = (quantised(torch.from_numpy(rows), steps_U1) * torch.from_numpy(gradients[:, :7])).sum()
    loss.backward()
    assert steps_U1.grad is not None
    learned = np.concatenate([rows, np.full((40, 1), 9, np.float32)], axis=1)
    learn_steps(learned, steps, gradients, 1e-6)
    np.testing.assert_allclose(learned[:, 7] - steps, -1e-6 * steps_U1.grad[:, 0].numpy(), atol=3e-9)
    np.testing.assert_array_equal(learned[:, :7], rows)


@pytest.mark.parametrize(
    ("number", "slope"),
    [(0, 0), (0.013, -0.3), (0.018, 0.2), (-0.013, 0.3), (1.2, 0), (1.271, 127), (5, 127), (-1.3, -128), (-9, -128)],
)
def test_the_slope_is_the_rounding_within_and_the_last_code_beyond(number: float, slope: float) -> None:
    learned = np.array([[number, 0]], np.float32)
    learn_steps(learned, np.array([0.01], np.float32), np.array([[1, 0]], np.float32), 1e-5)
    assert learned[0, 1] == pytest.approx(0.01 - 1e-5 * slope, abs=1e-8)


def test_a_step_stays_above_zero() -> None:
    learned = np.array([[5, 0]], np.float32)
    learn_steps(learned, np.array([0.01], np.float32), np.array([[1, 0]], np.float32), 1.0)
    assert learned[0, 1] == np.float32(0.01) / 2


# --- the format


@settings(max_examples=200, deadline=None)
@given(
    step=st.floats(2.0**-60, 2.0**60, width=32),
    numbers=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=9),
    seed=st.none() | st.integers(0, 2**63 - 1),
    at=st.integers(0, 2**63 - 1),
)
def test_a_row_is_within_a_step_and_stays_itself(step: float, numbers: list[float], seed: int | None, at: int) -> None:
    rows = np.array([[*(np.float32(step) * np.float32(number) for number in numbers), step]], np.float32)
    values, steps = encoded(rows, seed, at)
    read = decoded(values, steps)
    assert steps[0] == read[0, -1] == pytest.approx(step, rel=2.0**-16)
    np.testing.assert_array_equal(read[:, :-1], values.astype(np.float64) * steps[:, None])  # exact
    within = np.clip(rows[:, :-1].astype(np.float64), -128 * steps[0], 127 * steps[0])
    assert (abs(read[:, :-1] - within) <= steps[0] * (0.501 if seed is None else 1.001)).all()
    for again in (None, 3):
        second = encoded(read, again, at)
        assert (second[0].tobytes(), second[1].tobytes()) == (values.tobytes(), steps.tobytes())


def test_the_expectation_is_the_number() -> None:
    row = np.array([0.5, -0.77, 0.001, -1.2799, 0.01], np.float32)
    draws = 200_000
    rows = decoded(*encoded(np.tile(row, (draws, 1)), seed=2)).astype(np.float64)
    assert (abs(rows.mean(0) - row)[:4] <= 4 * 0.01 * 0.51 / np.sqrt(draws)).all()
    assert abs(rows[:, 4].mean() - row[4]) < 1e-9


def test_what_can_not_be_read_as_a_number_stays_so() -> None:
    rows = np.array([[1, np.nan, 0.1], [1, 2, np.nan], [np.inf, -np.inf, 0.5], [3, 0, -1]], np.float32)
    for seed in (None, 0):
        read = decoded(*encoded(rows, seed))
        assert np.isnan(read[:2]).all()
        assert read[2].tolist() == [63.5, -64, 0.5]
        assert read[3, 2] == np.float32(2.0**-126)


# --- in a store


def test_a_store_learns_rows_and_steps() -> None:
    store = LocalRows([GROUP])
    keys, still = np.arange(300), np.arange(300, 600)
    first, before = store.pull({"t": keys})["t"], store.pull({"t": still})["t"]
    assert (first[:, 4] == np.float32(0.01)).all() and np.abs(first[:, :4]).max() <= 0.02
    for at in range(100):
        store.push({"t": (keys, np.tile(np.array([1, -1, 0, 0, 0], np.float32), (300, 1)))}, at)
        store.push({"t": (still, np.full((300, 5), 0.01, np.float32))}, at)
    rows, moved = store.pull({"t": keys})["t"], store.pull({"t": still})["t"]
    np.testing.assert_allclose((moved - before)[:, :4].mean(), -100 * 0.1 * 0.01, rtol=0.05)  # a tenth of a step each
    np.testing.assert_allclose(moved[:, 4], 0.01, rtol=0.1)
    # after 13 pushes of 0.1 rows are at their last code, and then their step has to grow
    assert (rows[:, 4] > 0.05).all()
    assert (rows[:, 0] < -1.28).all()  # where the first step would have held them


@pytest.mark.parametrize("optimizer", [SGD(learning_rate=0.1), Adagrad(learning_rate=0.1)])
def test_a_snapshot_goes_on_to_the_bit(optimizer: Any) -> None:
    group = replace(GROUP, optimizer=optimizer)
    store, other = LocalRows([group]), LocalRows([RowGroup.from_json(group.to_json())])
    draw, keys = np.random.default_rng(0), np.arange(50)
    for at in range(6):
        store.push({"t": (keys, draw.normal(size=(50, 5)).astype(np.float32))}, at)
    other.restore(store.snapshot())
    np.testing.assert_array_equal(store.pull({"t": keys})["t"], other.pull({"t": keys})["t"])
    gradients = draw.normal(size=(20, 5)).astype(np.float32)
    for each in (store, other):
        each.push({"t": (keys[:20], gradients)}, 9)
    np.testing.assert_array_equal(store.pull({"t": keys})["t"], other.pull({"t": keys})["t"])


def test_rows_are_published_to_the_bit_in_the_bytes_that_are_counted() -> None:
    draw = np.random.default_rng(5)
    rows = (draw.normal(size=(500, 7)) * 10.0 ** draw.integers(-30, 4, (500, 1))).astype(np.float32)
    rows[:, 6] = abs(rows[:, 6]) / 10
    rows[3, 6], rows[4, 2], rows[5, 6], rows[6, 1] = 0, np.inf, np.nan, np.nan
    layout = Layout(model="m", run="r")
    assert layout.format_of(GROUP) == "lsq8"
    kept = decoded(*encoded(rows, None))
    published = layout.encode_rows(kept, np.arange(500), "lsq8")
    assert {len(value) for value in published} == {8 + row_bytes(replace(GROUP, width=7))} == {8 + LSQ8.row_bytes(7)}
    np.testing.assert_array_equal(layout.decode_rows(published, 7, "lsq8")[0], kept)
    straight = layout.encode_rows(rows, np.arange(500), "lsq8")
    np.testing.assert_array_equal(layout.decode_rows(straight, 7, "lsq8")[0], kept)


def test_a_store_holds_the_bytes_that_are_counted() -> None:
    sizes = []
    for width in (8, 24):
        store = LocalRows([replace(GROUP, width=width)])
        store.push({"t": (np.arange(1000), np.ones((1000, width), np.float32))}, 0)
        sizes.append(store.nbytes)
    assert sizes[1] - sizes[0] == 1000 * 16


@pytest.mark.parametrize("changes", [{"learned_step": None}, {"row_format": "int8"}, {"width": 1}])
def test_a_group_that_can_not_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="lsq8 needs a learned_step and a column for it"):
        replace(GROUP, **changes)
