"""DeepFM against a numpy reading of its equation, a published parameter count, and numerical gradients."""

import itertools

import numpy as np
import pytest
import torch
from model_inputs import inputs_of
from torchrec.modules.deepfm import DeepFM as TorchrecDeepPart

from recsys.errors import ConfigError
from recsys.models import build_config
from recsys.models.deepfm import DeepFM, DeepFMConfig


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: DeepFMConfig, *, num_features=4, embedding_dim=3, num_numbers=2, seed=0) -> DeepFM:
    return DeepFM(config, inputs_of(num_features, embedding_dim, num_numbers), generator=seeded(seed))


def randomize(model: torch.nn.Module, seed: int = 9) -> None:
    """Give every parameter a value, biases and linear weights included, which start at zero."""
    generator = seeded(seed)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5, generator=generator)


def inputs(num_numbers: int = 2, *, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = seeded(1)
    shapes = [(6, 4, 3), (6, 4), (6, num_numbers)]
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)


def logit_by_numpy(model: DeepFM, v_FD: np.ndarray, first_order_F: np.ndarray, numbers_M: np.ndarray) -> float:
    """One example's logit, read from the paper's equations, pair by pair."""
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    logit = float(weights["bias"]) + first_order_F.sum() + weights["number_weights"] @ numbers_M
    logit += sum(a @ b for a, b in itertools.combinations(v_FD, 2))
    hidden = np.concatenate([v_FD.ravel(), numbers_M])
    for layer in (0, 2):
        weight, bias = weights[f"mlp.layers.{layer}.weight"], weights[f"mlp.layers.{layer}.bias"]
        hidden = np.maximum(weight @ hidden + bias, 0)
    return float(logit + weights["mlp_output.weight"][0] @ hidden)


@pytest.mark.parametrize("num_numbers", [0, 2])
def test_logits_equal_the_papers_equation(num_numbers: int) -> None:
    model = build(DeepFMConfig(hidden_sizes=[5, 4]), num_numbers=num_numbers)
    randomize(model)
    batch = inputs(num_numbers)
    expected_B = [logit_by_numpy(model, *example) for example in zip(*(x.numpy() for x in batch), strict=True)]
    logits_B = model(*batch)
    assert logits_B.shape == (6,)
    np.testing.assert_allclose(logits_B.detach().numpy(), expected_B, rtol=1e-4, atol=1e-5)


def test_deep_part_equals_torchrecs_over_the_same_layers() -> None:
    model = build(DeepFMConfig(hidden_sizes=[5]), num_numbers=0)
    randomize(model)
    embeddings, first_order, numbers = inputs(0)
    deep = TorchrecDeepPart(torch.nn.Sequential(*model.mlp.layers, model.mlp_output))([embeddings]).squeeze(1)
    model.mlp_output.weight.data.zero_()
    without_deep = model(embeddings, first_order, numbers)
    randomize(model)
    torch.testing.assert_close(model(embeddings, first_order, numbers), without_deep + deep)


def test_gradients_equal_finite_differences() -> None:
    model = build(DeepFMConfig(hidden_sizes=[5])).double()
    randomize(model)
    batch = tuple(x.requires_grad_() for x in inputs(dtype=torch.float64))
    assert torch.autograd.gradcheck(model, batch)
    assert torch.autograd.gradcheck(lambda *parameters: model(*batch).sum(), tuple(model.parameters()))


def test_gradients_of_the_linear_part_are_known() -> None:
    model = build(DeepFMConfig(hidden_sizes=[5]))
    embeddings, first_order, numbers = inputs()
    first_order.requires_grad_()
    model(embeddings, first_order, numbers).sum().backward()
    assert torch.equal(first_order.grad, torch.ones(6, 4))
    assert model.bias.grad.item() == 6
    torch.testing.assert_close(model.number_weights.grad, numbers.sum(dim=0))


def test_same_seed_same_weights() -> None:
    first, second, other = (build(DeepFMConfig(hidden_sizes=[8]), seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mlp_output.weight, other.mlp_output.weight)


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        # bias 1 + numbers 2 + (4·3 + 2)·5 + 5 + 5·4 + 4 + output 4
        (DeepFMConfig(hidden_sizes=[5, 4]), (4, 3, 2), 1 + 2 + 75 + 24 + 4),
        # BARS, Frappe_x1: 423,280 in all, less 5,389 ids of width 10 and of width 1
        (DeepFMConfig(batch_norm=True), (10, 10, 0), 423_280 - 5_389 * 11),
    ],
)
def test_parameter_count(config: DeepFMConfig, shape: tuple[int, int, int], expected: int) -> None:
    num_features, embedding_dim, num_numbers = shape
    model = build(config, num_features=num_features, embedding_dim=embedding_dim, num_numbers=num_numbers)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_forgotten_first_order_is_not_taken_for_zero() -> None:
    embeddings, _, numbers = inputs()
    with pytest.raises(AssertionError, match="first-order"):
        build(DeepFMConfig())(embeddings, torch.zeros(6, 0), numbers)


def test_lists_become_tuples_and_configs_compare() -> None:
    config = build_config({"kind": "deepfm", "hidden_sizes": [8, 4], "dropout": 0})
    assert config.hidden_sizes == (8, 4)
    assert config == DeepFMConfig(hidden_sizes=(8, 4), dropout=0.0)
    assert hash(config) == hash(DeepFMConfig(hidden_sizes=(8, 4)))
    assert config.needs_first_order


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_sizes": []}, r"model.hidden_sizes=\[\]: give a list .* \(not empty\)"),
        ({"dropout": 1.0}, "model.dropout=1.0: give a number of at least 0 and below 1"),
        ({"batch_norm": "no"}, "model.batch_norm='no': give true or false"),
    ],
)
def test_bad_config(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({"kind": "deepfm", **fields})
