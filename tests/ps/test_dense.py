"""Dense parameters as rows: nothing lost, and the store's Adam is torch's."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from recsys.ps.client import ShardedRows
from recsys.ps.dense import DENSE, ROW_WIDTH, DenseParameters
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Adam
from recsys.rows.store import RowStore, Snapshot


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 17), nn.ReLU(), nn.Linear(17, 1))


def test_rows_hold_every_parameter_in_order_and_zeros_after() -> None:
    net = module()
    dense = DenseParameters(net)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]).numpy()
    rows = dense.rows()
    assert rows.shape == (-(-len(flat) // ROW_WIDTH), ROW_WIDTH) == (len(dense.keys), ROW_WIDTH)
    np.testing.assert_array_equal(rows.reshape(-1)[: len(flat)], flat)
    assert (rows.reshape(-1)[len(flat) :] == 0).all()


def test_load_undoes_rows() -> None:
    net, other = module(), module()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7)
    DenseParameters(other).load(DenseParameters(net).rows())
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_are_laid_out_as_rows_and_cleared() -> None:
    net = module()
    dense = DenseParameters(net)
    net(torch.ones(3, 40)).sum().backward()
    last = list(net.parameters())[-1]
    flat = torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.grad is not None]).numpy()
    keys, rows = dense.gradients()
    assert keys.tolist() == dense.keys.tolist()
    np.testing.assert_array_equal(rows.reshape(-1)[: len(flat)], flat)
    assert rows.reshape(-1)[len(flat) - 1] == 3  # the last bias: one for each example
    assert last.grad is None
    assert (dense.gradients()[1] == 0).all()


def test_a_module_without_parameters_is_one_row_of_zeros() -> None:
    dense = DenseParameters(nn.ReLU())
    assert dense.rows().tolist() == [[0.0] * ROW_WIDTH]
    dense.load(dense.rows())
    assert dense.gradients()[1].shape == (1, ROW_WIDTH)


@pytest.mark.parametrize("num_shards", [0, 2])
def test_adam_in_the_store_is_torchs_for_twenty_steps(num_shards: int) -> None:
    net = module()
    reference = copy.deepcopy(net)
    torchs = torch.optim.Adam(reference.parameters(), lr=0.01)
    dense, adam = DenseParameters(net), Adam(learning_rate=0.01)
    group = dense.group(adam)
    store: RowStore = LocalRows([group])
    if num_shards:
        stores = [
            LocalRows([group], buckets=shard_buckets(i, num_shards), num_buckets=NUM_BUCKETS) for i in range(num_shards)
        ]
        store = ShardedRows([group], [LocalShard(shard) for shard in stores])
    store.restore(Snapshot((0,), {DENSE: dense.initial_snapshot(adam)}))
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        inputs, targets = torch.randn(8, 40, generator=generator), torch.randn(8, 1, generator=generator)
        dense.load(store.pull({DENSE: dense.keys})[DENSE])
        nn.functional.mse_loss(net(inputs), targets).backward()
        store.push({DENSE: dense.gradients()}, 0)
        torchs.zero_grad()
        nn.functional.mse_loss(reference(inputs), targets).backward()
        torchs.step()
        expected = DenseParameters(reference).rows()
        np.testing.assert_allclose(store.pull({DENSE: dense.keys})[DENSE], expected, rtol=1e-6, atol=1e-6)
