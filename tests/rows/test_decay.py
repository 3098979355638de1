"""Whole-table decay, caught up with at a row's next touch, against dense runs of torch.

In a dense run every row decays at every step, and moves on by its momentum; here a row that is touched seldom must end
where the dense run has it, and read so at any time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recsys.hashing import Floats
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adagrad, Adam, AdamW, Momentum, Optimizer, RowWiseAdagrad
from recsys.rows.schedules import Cosine
from recsys.rows.store import RowGroup, RowStore, Snapshot

WIDTH, NUM_KEYS = 4, 12
KEYS = np.arange(NUM_KEYS) * 2**55 - 7  # of a collisionless group
Torchs = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: list[tuple[Any, Torchs]] = [
    (SGD(learning_rate=0.05, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
    (
        Momentum(learning_rate=0.05, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1, momentum=0.9),
    ),
    (Adagrad(learning_rate=0.05, weight_decay=0.1), lambda p: torch.optim.Adagrad(p, lr=0.05, weight_decay=0.1)),
    (Adam(learning_rate=0.01, weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
    (
        AdamW(learning_rate=0.01, weight_decay=0.1, drift=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
]
IDS = [optimizer.kind for optimizer, _ in OPTIMIZERS]


def group_of(optimizer: Optimizer) -> RowGroup:
    return RowGroup(name="t", width=WIDTH, optimizer=optimizer, seed=3)


def initial(group: RowGroup) -> Floats:
    return group.initial.rows(KEYS, WIDTH, group.seed)


def dense(start: Floats, torchs: Torchs) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    return parameter, torchs([parameter])


def seldom_touched(num_steps: int) -> list[tuple[Any, Floats]]:
    """For each step the positions of the keys touched, few of twelve, the last never, and their gradients."""
    generator = np.random.default_rng(4)
    steps = []
    for _ in range(num_steps):
        touched = np.sort(generator.choice(NUM_KEYS - 1, generator.integers(0, 4), replace=False))
        steps.append((touched, generator.standard_normal((len(touched), WIDTH)).astype(np.float32)))
    return steps


def sharded(groups: list[RowGroup]) -> ShardedRows:
    shards = [LocalRows(groups, buckets=shard_buckets(shard, 2), num_buckets=NUM_BUCKETS) for shard in range(2)]
    return ShardedRows(groups, [LocalShard(shard) for shard in shards])


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("build", [lambda groups: LocalRows(groups), sharded], ids=["local", "2 shards"])
@pytest.mark.parametrize(("optimizer", "torchs"), OPTIMIZERS, ids=IDS)
def test_seldom_touched_rows_are_where_a_dense_run_has_them(
    optimizer: Any, torchs: Torchs, build: Callable[[list[RowGroup]], RowStore], scheduled: bool
) -> None:
    """Read at every step, untouched and never pushed rows among them; deletes and other groups' pushes are no steps."""
    schedule = Cosine(steps=50, least=0.2) if scheduled else None
    group = group_of(replace(optimizer, schedule=schedule))
    store = build([group, replace(group, name="other")])
    parameter, reference = dense(initial(group), torchs)
    rates = None if schedule is None else torch.optim.lr_scheduler.LambdaLR(
        reference, lambda at: float(schedule.factors(np.array([at + 1]))[0])
    )  # fmt: skip
    for at, (touched, gradients) in enumerate(seldom_touched(80)):
        store.push({"t": (KEYS[touched], gradients)}, 0)
        if at % 7 == 0:
            store.push({"other": (KEYS[:1], np.ones((1, WIDTH), np.float32))}, 0)
            store.delete({"other": KEYS[:1]})
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[torch.from_numpy(touched)] = torch.from_numpy(gradients)
        reference.step()
        if rates is not None:
            rates.step()
        np.testing.assert_allclose(store.pull({"t": KEYS})["t"], parameter.detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("optimizer", "torchs"), OPTIMIZERS, ids=IDS)
def test_reading_writes_nothing_and_a_snapshot_keeps_row_and_last_step(optimizer: Any, torchs: Torchs) -> None:
    group = group_of(optimizer)
    store, other = LocalRows([group]), sharded([group])
    store.push({"t": (KEYS[:4], np.ones((4, WIDTH), np.float32))}, 0)
    once = store.snapshot().groups["t"]
    for _ in range(5):
        store.push({"t": (KEYS[:1], np.ones((1, WIDTH), np.float32))}, 0)
    store.pull({"t": KEYS})
    snapshot = store.snapshot()
    part = snapshot.groups["t"]
    assert part.num_steps == 6 and part.own_steps_U is not None
    steps = dict(zip(part.keys_U.tolist(), part.own_steps_U.tolist(), strict=True))
    assert steps == {int(key): 6 if at == 0 else 1 for at, key in enumerate(KEYS[:4].tolist())}
    untouched, before = (np.isin(p.keys_U, KEYS[1:4]) for p in (part, once))
    np.testing.assert_array_equal(part.rows_UW[untouched], once.rows_UW[before])
    other.restore(Snapshot(snapshot.cursor, snapshot.groups))
    np.testing.assert_array_equal(other.pull({"t": KEYS})["t"], store.pull({"t": KEYS})["t"])
    for each in (store, other):
        each.push({"t": (KEYS[:3], np.ones((3, WIDTH), np.float32))}, 0)
    np.testing.assert_array_equal(other.pull({"t": KEYS})["t"], store.pull({"t": KEYS})["t"])
    changes = store.changes("c").upserts["t"]  # what is published is what is read
    np.testing.assert_array_equal(changes.rows_UW, store.pull({"t": changes.keys_U})["t"])


def missed(optimizer: Any, torchs: Torchs, num_missed: int) -> tuple[Floats, Floats]:
    """Rows that were trained for 20 steps and then untouched: ours and the dense run's."""
    group = group_of(optimizer)
    store = LocalRows([group])
    parameter, reference = dense(initial(group), torchs)
    generator = np.random.default_rng(0)
    for at in range(20 + num_missed):
        gradients = (0.1 * generator.standard_normal((NUM_KEYS, WIDTH))).astype(np.float32) * (at < 20)
        if at < 20:
            store.push({"t": (KEYS, gradients)}, 0)
        parameter.grad = torch.from_numpy(gradients.astype(np.float32))
        reference.step()
    snapshot = store.snapshot()
    part = replace(snapshot.groups["t"], num_steps=20 + num_missed)
    store.restore(Snapshot(snapshot.cursor, {"t": part}))
    return store.pull({"t": KEYS})["t"], parameter.detach().numpy()


@pytest.mark.parametrize("num_missed", [10, 1000])
@pytest.mark.parametrize(("optimizer", "torchs"), OPTIMIZERS, ids=IDS)
def test_up_to_replay_steps_nothing_is_approximate(optimizer: Any, torchs: Torchs, num_missed: int) -> None:
    ours, expected = missed(optimizer, torchs, num_missed)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [1e-5, 1e-2])
@pytest.mark.parametrize(("num_missed", "replay_steps"), [(1000, 100), (20_000, 1000)])
def test_beyond_them_adam_is_off_by_less_than_a_stride_moves(
    weight_decay: float, num_missed: int, replay_steps: int
) -> None:
    """A stride of h steps moves a number by about h * learning_rate at most."""
    optimizer = Adam(learning_rate=1e-3, weight_decay=weight_decay, replay_steps=replay_steps)
    ours, expected = missed(optimizer, lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=weight_decay), num_missed)
    stride = -(-(num_missed - replay_steps) // replay_steps)
    assert 0 < np.abs(ours - expected).max() < stride * 1e-3


def test_a_hundred_thousand_missed_steps() -> None:
    """By then a dense run has decayed to nothing: closed forms are there too, strides within what one moves."""
    sgd, expected = missed(*OPTIMIZERS[0], 3000)
    np.testing.assert_allclose(sgd, expected, rtol=1e-4, atol=1e-9)
    group = group_of(Adam(learning_rate=1e-3, weight_decay=1e-2))
    store = LocalRows([group])
    store.push({"t": (KEYS, np.ones((NUM_KEYS, WIDTH), np.float32))}, 0)
    for optimizer, bound in [
        (Adam(learning_rate=1e-3, weight_decay=1e-2), 99 * 1e-3),
        (Adam(learning_rate=1e-3, weight_decay=1e-2, replay_steps=100_000), 1e-6),
        (Momentum(learning_rate=0.05, weight_decay=0.1), 1e-6),
        (Adagrad(learning_rate=0.05, weight_decay=0.1), 1e-6),
        (RowWiseAdagrad(learning_rate=0.05, weight_decay=0.1), 1e-6),
        (SGD(learning_rate=0.05, weight_decay=0.1), 1e-6),
        (AdamW(learning_rate=0.05, weight_decay=0.1), 1e-6),
    ]:
        store = LocalRows([group_of(optimizer)])
        store.push({"t": (KEYS, np.ones((NUM_KEYS, WIDTH), np.float32))}, 0)
        snapshot = store.snapshot()
        part = replace(snapshot.groups["t"], num_steps=100_001)
        store.restore(Snapshot(snapshot.cursor, {"t": part}))
        assert np.abs(store.pull({"t": KEYS})["t"]).max() < bound


def test_rowwise_adagrad_decays_by_the_mean_of_squares() -> None:
    """The dense run in float64, a row at a time."""
    group = group_of(RowWiseAdagrad(learning_rate=0.05, weight_decay=0.1))
    store = LocalRows([group])
    rows, sums = initial(group).astype(np.float64), np.zeros((NUM_KEYS, 1))
    for touched, gradients in seldom_touched(60):
        store.push({"t": (KEYS[touched], gradients)}, 0)
        total = 0.1 * rows
        total[touched] += gradients
        sums += (total**2).mean(axis=1, keepdims=True)
        rows -= 0.05 * total / (np.sqrt(sums) + 1e-8)
        np.testing.assert_allclose(store.pull({"t": KEYS})["t"], rows, rtol=2e-5, atol=2e-6)


def test_adamw_without_drift_decays_by_a_product_and_keeps_its_moments() -> None:
    group = group_of(AdamW(learning_rate=0.01, weight_decay=0.1))
    store = LocalRows([group])
    store.push({"t": (KEYS, np.ones((NUM_KEYS, WIDTH), np.float32))}, 0)
    before, moments = store.pull({"t": KEYS})["t"], store.snapshot().groups["t"].state["mean"]
    for _ in range(400):
        store.push({"t": (KEYS[:0], np.ones((0, WIDTH), np.float32))}, 0)
    np.testing.assert_allclose(store.pull({"t": KEYS})["t"], before * (1 - 0.001) ** 400, rtol=1e-6)
    np.testing.assert_array_equal(store.snapshot().groups["t"].state["mean"], moments)
