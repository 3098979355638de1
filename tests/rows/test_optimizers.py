"""Row optimizers, step by step, against torch.optim and fbgemm's formula."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Momentum,
    Optimizer,
    RowWiseAdagrad,
    build_optimizer,
)
from recsys.rows.schedules import Cosine, Exponential, Schedule, WarmUp
from recsys.rows.store import RowGroup, Snapshot, fresh_rows

NUM_ROWS, WIDTH, NUM_STEPS = 6, 4, 30


def trained_rows(optimizer: Optimizer, gradients: np.ndarray) -> list[np.ndarray]:
    """The rows after each step of a store that starts from ones."""
    group = RowGroup(name="t", width=WIDTH, num_rows=NUM_ROWS, optimizer=optimizer)
    store, keys = LocalRows([group]), np.arange(NUM_ROWS)
    start = np.ones((NUM_ROWS, WIDTH), np.float32)
    store.restore(Snapshot((0,), {"t": fresh_rows(group, keys, start)}))
    rows = []
    for gradient in gradients:
        store.push({"t": (keys, gradient)}, 0)
        rows.append(store.pull({"t": keys})["t"])
    return rows


def random_gradients() -> np.ndarray:
    """Gradients of very different sizes, some exactly zero."""
    generator = np.random.default_rng(0)
    gradients = generator.standard_normal((NUM_STEPS, NUM_ROWS, WIDTH))
    gradients *= 10.0 ** generator.integers(-4, 2, (1, NUM_ROWS, 1))
    gradients[::7, 2] = 0
    return gradients.astype(np.float32)


@pytest.mark.parametrize(
    ("optimizer", "torchs"),
    [
        (SGD(learning_rate=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
        (SGD(learning_rate=0.05, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
        (Momentum(learning_rate=0.05), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        (
            Momentum(learning_rate=0.05, momentum=0.5, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=0.1),
        ),
        (
            Adagrad(learning_rate=0.05, weight_decay=0.1),
            lambda p: torch.optim.Adagrad(p, lr=0.05, weight_decay=0.1),
        ),
        (Adam(learning_rate=0.05, weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1)),
        (AdamW(learning_rate=0.05), lambda p: torch.optim.AdamW(p, lr=0.05)),
        (
            AdamW(learning_rate=0.05, weight_decay=0.2, drift=True),
            lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.2),
        ),
        (Adagrad(learning_rate=0.05), lambda p: torch.optim.Adagrad(p, lr=0.05)),
        (
            Adagrad(learning_rate=0.05, eps=1e-3, initial_accumulator=0.1),
            lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-3, initial_accumulator_value=0.1),
        ),
        (Adam(learning_rate=0.05), lambda p: torch.optim.Adam(p, lr=0.05)),
        (
            Adam(learning_rate=0.05, beta1=0.8, beta2=0.9, eps=1e-4),
            lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.9), eps=1e-4),
        ),
    ],
)
def test_every_step_is_torchs(
    optimizer: Optimizer, torchs: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
) -> None:
    parameter = torch.nn.Parameter(torch.ones(NUM_ROWS, WIDTH))
    reference = torchs([parameter])
    gradients = random_gradients()
    for gradient, rows in zip(gradients, trained_rows(optimizer, gradients), strict=True):
        parameter.grad = torch.from_numpy(gradient)
        reference.step()
        np.testing.assert_allclose(rows, parameter.detach().numpy(), rtol=1e-6, atol=1e-6)


SCHEDULES = [WarmUp(steps=12), Exponential(gamma=0.7, steps=3), Cosine(steps=20, least=0.1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_schedules_are_torchs(kind: str, schedule: Schedule) -> None:
    """Against torch's own scheduler where it has one of the name, against LambdaLR for the warm-up."""
    parameter = torch.nn.Parameter(torch.ones(NUM_ROWS, WIDTH))
    reference = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]([parameter], lr=0.05, weight_decay=0.1)
    scheduler: Any = {
        "warm_up": lambda: torch.optim.lr_scheduler.LambdaLR(reference, lambda at: min(1.0, (at + 1) / 12)),
        "exponential": lambda: torch.optim.lr_scheduler.StepLR(reference, 3, gamma=0.7),
        "cosine": lambda: torch.optim.lr_scheduler.LambdaLR(
            reference, lambda at: 0.1 + 0.9 * (1 + math.cos(math.pi * min(at, 20) / 20)) / 2
        ),
    }[schedule.kind]()  # type: ignore[attr-defined]
    optimizer = build_optimizer(
        {"kind": kind, "learning_rate": 0.05, "weight_decay": 0.1, "schedule": asdict(schedule)}  # type: ignore[call-overload]
    )
    gradients = random_gradients()
    for gradient, rows in zip(gradients, trained_rows(optimizer, gradients), strict=True):
        parameter.grad = torch.from_numpy(gradient)
        reference.step()
        scheduler.step()
        np.testing.assert_allclose(rows, parameter.detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.5, 0.1)])
def test_ftrl_is_the_papers_algorithm(l1: float, l2: float) -> None:
    """McMahan et al. 2013, Algorithm 1, a number at a time in float64; a strong l1 leaves exact zeros."""
    gradients = random_gradients()
    rows = trained_rows(FTRL(learning_rate=0.1, beta=1.0, l1=l1, l2=l2), gradients)
    weights, z, n = np.ones((NUM_ROWS, WIDTH)), np.zeros((NUM_ROWS, WIDTH)), np.zeros((NUM_ROWS, WIDTH))
    for step, gradient in enumerate(gradients.astype(np.float64)):
        for at, g in np.ndenumerate(gradient):
            sigma = (math.sqrt(n[at] + g * g) - math.sqrt(n[at])) / 0.1
            z[at] += g - sigma * weights[at]
            n[at] += g * g
            if abs(z[at]) <= l1:
                weights[at] = 0
            else:
                weights[at] = -(z[at] - math.copysign(l1, z[at])) / ((1.0 + math.sqrt(n[at])) / 0.1 + l2)
        np.testing.assert_allclose(rows[step], weights, rtol=2e-5, atol=1e-6)
    assert (rows[-1] == 0).any() == (l1 > 0)


def test_rowwise_adagrad_with_decay_is_fbgemms_l2_mode() -> None:
    """WeightDecayMode.L2: the gradient is first g + weight_decay * row, for the mean of squares too."""
    gradients = random_gradients()
    expected, sums = np.ones((NUM_ROWS, WIDTH)), np.zeros((NUM_ROWS, 1))
    optimizer = RowWiseAdagrad(learning_rate=0.05, weight_decay=0.1)
    for gradient, rows in zip(gradients.astype(np.float64), trained_rows(optimizer, gradients), strict=True):
        total = gradient + 0.1 * expected
        sums += (total**2).mean(axis=1, keepdims=True)
        expected -= 0.05 * total / (np.sqrt(sums) + 1e-8)
        np.testing.assert_allclose(rows, expected, rtol=2e-6, atol=1e-6)


def test_rowwise_adagrad_is_fbgemms_formula() -> None:
    """EXACT_ROWWISE_ADAGRAD: sum += mean(g²); row -= learning_rate / (sqrt(sum) + eps) * g."""
    gradients = random_gradients()
    expected, sums = np.ones((NUM_ROWS, WIDTH)), np.zeros(NUM_ROWS)
    optimizer = RowWiseAdagrad(learning_rate=0.05, eps=1e-6)
    for gradient, rows in zip(gradients.astype(np.float64), trained_rows(optimizer, gradients), strict=True):
        for row in range(NUM_ROWS):
            sums[row] += sum(g * g for g in gradient[row]) / WIDTH
            expected[row] -= 0.05 / (np.sqrt(sums[row]) + 1e-6) * gradient[row]
        np.testing.assert_allclose(rows, expected, rtol=1e-6, atol=1e-6)


def test_adam_counts_the_rows_own_steps() -> None:
    group = RowGroup(name="t", width=1, optimizer=Adam(learning_rate=0.1), initial=Initial(scale=0))
    store = LocalRows([group])
    one, both = np.array([1]), np.array([1, 2])
    for _ in range(5):
        store.push({"t": (one, np.ones((1, 1), np.float32))}, 0)
    store.push({"t": (both, np.ones((2, 1), np.float32))}, 0)
    # with a constant gradient every bias-corrected step is learning_rate: six of them, and one
    np.testing.assert_allclose(store.pull({"t": both})["t"], [[-0.6], [-0.1]], rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(learning_rate=1.0),
        Adagrad(learning_rate=0.1, eps=1e-5, initial_accumulator=0.5),
        RowWiseAdagrad(learning_rate=0.1),
        Adam(learning_rate=0.1, beta1=0.5),
        Momentum(learning_rate=0.1, momentum=0.5, schedule=WarmUp(steps=3)),
        AdamW(learning_rate=0.1, drift=True, schedule=Exponential(gamma=0.5)),
        FTRL(learning_rate=0.1, l1=0.5),
        SGD(learning_rate=0.1, weight_decay=0.5, replay_steps=7, schedule=Cosine(steps=8)),
    ],
)
def test_optimizers_and_groups_survive_their_plain_form(optimizer: Optimizer) -> None:
    assert build_optimizer(asdict(optimizer)) == optimizer  # type: ignore[call-overload]
    group = RowGroup(name="t", width=3, optimizer=optimizer, initial=Initial(scale=0.2), num_rows=9, seed=4)
    assert RowGroup.from_json(group.to_json()) == group


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "sdg"},
            "unknown optimizer.kind 'sdg'; known: sgd, momentum, adagrad, rowwise_adagrad, adam, adamw, ftrl",
        ),
        ({"learning_rate": 1.0}, "unknown optimizer.kind None"),
        (
            {"kind": "sgd", "learning_rate": 1.0, "lr": 2},
            "unknown field 'optimizer.lr'; known: learning_rate",
        ),
        ({"kind": "sgd"}, "optimizer.learning_rate is not given; set optimizer.learning_rate="),
        ({"kind": "adam", "learning_rate": 0.0}, "^optimizer.learning_rate=0.0: give a number above 0$"),
        ({"kind": "adam", "learning_rate": float("nan")}, "learning_rate=NaN: give a number above 0"),
        ({"kind": "adam", "learning_rate": float("inf")}, "learning_rate=Infinity: give a number above 0"),
        ({"kind": "adam", "learning_rate": 0.1, "beta1": 1}, "beta1=1: give a number of at least 0 and below 1"),
        ({"kind": "adagrad", "learning_rate": 0.1, "eps": 0}, "eps=0: give a number above 0"),
        ({"kind": "sgd", "learning_rate": 0.1, "weight_decay": -1}, "weight_decay=-1: give a number of at least 0"),
        ({"kind": "sgd", "learning_rate": 0.5, "weight_decay": 2}, "takes all of a row in a step; lower one"),
        (
            {"kind": "sgd", "learning_rate": 0.1, "schedule": {"kind": "cosin"}},
            "unknown optimizer.schedule.kind 'cosin'; known: warm_up, exponential, cosine",
        ),
        ({"kind": "sgd", "learning_rate": 0.1, "schedule": {"kind": "cosine"}}, "schedule.steps is not given"),
    ],
)
def test_mistakes_are_told(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(fields)
