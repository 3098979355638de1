"""Layers against numpy readings of their equations and against torchrec."""

import itertools

import numpy as np
import pytest
import torch
from torchrec.modules.deepfm import FactorizationMachine

from recsys.models.layers import MLP, BatchNorm, bi_interaction, fm_second_order, linear, xavier


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_fm_is_the_sum_of_dot_products_of_all_pairs() -> None:
    v_BFD = torch.randn(7, 5, 3, generator=seeded(0))
    pairs_B = [sum(float(a @ b) for a, b in itertools.combinations(v_FD, 2)) for v_FD in v_BFD.numpy()]
    np.testing.assert_allclose(fm_second_order(v_BFD).numpy(), pairs_B, rtol=1e-5, atol=1e-5)


def test_fm_equals_torchrecs_applied_to_each_dimension_alone() -> None:
    v_BFD = torch.randn(7, 5, 3, generator=seeded(1))
    torchrec_fm = FactorizationMachine()
    per_dimension = [torchrec_fm([v_BFD[:, :, d : d + 1]]).squeeze(1) for d in range(3)]
    torch.testing.assert_close(fm_second_order(v_BFD), torch.stack(per_dimension).sum(dim=0))
    # Flattened as torchrec does by itself, it is another function.
    assert not torch.allclose(fm_second_order(v_BFD), torchrec_fm([v_BFD]).squeeze(1), atol=0.1)


def test_fm_of_one_feature_is_zero() -> None:
    torch.testing.assert_close(fm_second_order(torch.randn(4, 1, 8, generator=seeded(2))), torch.zeros(4))


def test_linear_draws_from_its_generator_alone() -> None:
    state_before = torch.random.get_rng_state()
    first, second = linear(30, 20, generator=seeded(3)), linear(30, 20, generator=seeded(3))
    assert torch.equal(torch.random.get_rng_state(), state_before)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, linear(30, 20, generator=seeded(4)).weight)
    assert first.bias.tolist() == [0.0] * 20
    assert first.weight.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.1)  # Xavier: variance 2 / (in + out)


def test_mlp_is_relu_of_affine_layers() -> None:
    mlp = MLP(4, [5, 3], generator=seeded(5))
    x_BI = torch.randn(6, 4, generator=seeded(6))
    for parameter in mlp.parameters():
        parameter.data.normal_(generator=seeded(7))  # biases too, which start at zero
    expected = x_BI.numpy()
    for weight, bias in weights_and_biases(mlp):
        expected = np.maximum(expected @ weight.T + bias, 0)
    np.testing.assert_allclose(mlp(x_BI).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert mlp.num_outputs == 3


def weights_and_biases(mlp: MLP) -> list[tuple[np.ndarray, np.ndarray]]:
    arrays = [parameter.detach().numpy() for parameter in mlp.parameters()]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def test_mlp_orders_batch_norm_relu_dropout() -> None:
    mlp = MLP(4, [5], dropout=0.5, batch_norm=True, generator=seeded(0))
    assert [type(layer).__name__ for layer in mlp.layers] == ["Linear", "BatchNorm", "ReLU", "Dropout"]
    assert [type(layer).__name__ for layer in MLP(4, [5], generator=seeded(0)).layers] == ["Linear", "ReLU"]


def test_dropout_is_off_in_evaluation() -> None:
    mlp = MLP(4, [50], dropout=0.5, generator=seeded(0))
    x_BI = torch.randn(2, 4, generator=seeded(1))
    assert not torch.equal(mlp(x_BI), mlp(x_BI))
    mlp.eval()
    assert torch.equal(mlp(x_BI), mlp(x_BI))


def test_mlp_without_layers_is_what_comes() -> None:
    x_BI, mlp = torch.randn(2, 4, generator=seeded(1)), MLP(4, [], generator=seeded(0))
    assert torch.equal(mlp(x_BI), x_BI)
    assert mlp.num_outputs == 4


def test_bi_interaction_is_the_sum_of_products_of_all_pairs() -> None:
    v_BFD = torch.randn(7, 5, 3, generator=seeded(0))
    pairs_BD = [sum(a * b for a, b in itertools.combinations(v_FD, 2)) for v_FD in v_BFD.numpy()]
    np.testing.assert_allclose(bi_interaction(v_BFD).numpy(), pairs_BD, rtol=1e-5, atol=1e-5)


def test_xavier_draws_each_matrix_for_its_own_sizes() -> None:
    weights = xavier(50, 30, 20, generator=seeded(0))
    assert weights.shape == (50, 30, 20)
    assert weights.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.02)
    assert torch.equal(weights, xavier(50, 30, 20, generator=seeded(0)))


def test_batch_norm_is_torchs() -> None:
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm1d(3)
    for step in range(5):
        x_BO = torch.randn(8, 3, generator=seeded(step)) * 2 + 1
        assert torch.equal(ours(x_BO), theirs(x_BO))
    assert [name for name, _ in ours.named_buffers()] == ["running_mean", "running_var"]
    assert torch.equal(ours.running_mean, theirs.running_mean)
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours.eval()(x_BO), theirs.eval()(x_BO))


@pytest.mark.parametrize("num_examples", [0, 1])
def test_batch_norm_learns_nothing_of_one_example(num_examples: int) -> None:
    norm = BatchNorm(3)
    norm(torch.randn(8, 3, generator=seeded(0)))
    mean_O, x_BO = norm.running_mean.clone(), torch.randn(num_examples, 3, generator=seeded(1))
    trained_BO = norm(x_BO)
    assert torch.equal(norm.running_mean, mean_O)
    assert torch.equal(trained_BO, norm.eval()(x_BO))
