"""DCN-V2 against a numpy reading of its equation, torchrec, a published parameter count, and gradients."""

import numpy as np
import pytest
import torch
from model_inputs import inputs_of
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet, LowRankMixtureCrossNet

from recsys.errors import ConfigError
from recsys.models import build_config
from recsys.models.dcnv2 import CrossMixture, CrossNetwork, DCNv2, DCNv2Config


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: DCNv2Config, *, num_features=4, embedding_dim=3, num_numbers=2, seed=0) -> DCNv2:
    return DCNv2(config, inputs_of(num_features, embedding_dim, num_numbers), generator=seeded(seed))


def randomize(model: torch.nn.Module, seed: int = 9) -> None:
    """Give every parameter a value, biases included, which start at zero."""
    generator = seeded(seed)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5, generator=generator)


def inputs(*, num_first_order=0, num_numbers=2, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = seeded(1)
    shapes = [(6, 4, 3), (6, num_first_order), (6, num_numbers)]
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)


def joined_with_mlp(model: DCNv2, weights: dict[str, np.ndarray], x0: np.ndarray, crossed: np.ndarray) -> np.ndarray:
    deep_input = x0 if model.config.structure == "parallel" else crossed
    deep = np.maximum(weights["mlp.layers.0.weight"] @ deep_input + weights["mlp.layers.0.bias"], 0)
    return np.concatenate([crossed, deep]) if model.config.structure == "parallel" else deep


def logit_by_numpy(model: DCNv2, v_FD: np.ndarray, first_order_F: np.ndarray, numbers_M: np.ndarray) -> float:
    """One example's logit, read from the paper's equation 1 and Figure 1."""
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    x0 = np.concatenate([v_FD.ravel(), numbers_M])
    crossed = x0
    for layer in range(model.config.num_cross_layers):
        weight, bias = weights[f"cross.layers.{layer}.weight"], weights[f"cross.layers.{layer}.bias"]
        crossed = x0 * (weight @ crossed + bias) + crossed
    joined = crossed if model.config.structure == "cross" else joined_with_mlp(model, weights, x0, crossed)
    logit = weights["output.weight"][0] @ joined + weights["output.bias"][0]
    if model.config.first_order:
        logit += first_order_F.sum() + weights["number_weights"] @ numbers_M
    return float(logit)


@pytest.mark.parametrize("structure", ["parallel", "stacked", "cross"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("num_numbers", [0, 2])
def test_logits_equal_the_papers_equation(structure: str, first_order: bool, num_numbers: int) -> None:
    config = DCNv2Config(structure=structure, num_cross_layers=2, hidden_sizes=[5], first_order=first_order)
    model = build(config, num_numbers=num_numbers)
    randomize(model)
    batch = inputs(num_first_order=4 if first_order else 0, num_numbers=num_numbers)
    expected_B = [logit_by_numpy(model, *example) for example in zip(*(x.numpy() for x in batch), strict=True)]
    logits_B = model(*batch)
    assert logits_B.shape == (6,)
    np.testing.assert_allclose(logits_B.detach().numpy(), expected_B, rtol=1e-4, atol=1e-5)


def test_cross_network_equals_torchrecs() -> None:
    ours, theirs = CrossNetwork(7, 3, generator=seeded(0)), CrossNet(in_features=7, num_layers=3)
    randomize(ours)
    for layer, kernel, bias in zip(ours.layers, theirs.kernels, theirs.bias, strict=True):
        kernel.data.copy_(layer.weight)
        bias.data.copy_(layer.bias.unsqueeze(1))
    x_BI = torch.randn(5, 7, generator=seeded(1))
    torch.testing.assert_close(ours(x_BI), theirs(x_BI))


def test_low_rank_network_equals_torchrecs() -> None:
    ours, theirs = CrossNetwork(7, 3, 2, generator=seeded(0)), LowRankCrossNet(in_features=7, num_layers=3, low_rank=2)
    randomize(ours)
    for layer, v_kernel, w_kernel, bias in zip(
        ours.layers, theirs.V_kernels, theirs.W_kernels, theirs.bias, strict=True
    ):
        down, up = layer
        v_kernel.data.copy_(down.weight)
        w_kernel.data.copy_(up.weight)
        bias.data.copy_(up.bias)
    x_BI = torch.randn(5, 7, generator=seeded(1))
    torch.testing.assert_close(ours(x_BI), theirs(x_BI))


def test_mixture_equals_torchrecs() -> None:
    ours = CrossMixture(7, 3, 2, 4, generator=seeded(0))
    theirs = LowRankMixtureCrossNet(in_features=7, num_layers=3, num_experts=4, low_rank=2, activation=torch.tanh)
    randomize(ours)
    for place, layer in enumerate(ours.layers):
        theirs.V_kernels[place].data.copy_(layer.down_KRI)
        theirs.C_kernels[place].data.copy_(layer.inner_KRR)
        theirs.U_kernels[place].data.copy_(layer.up_KIR)
        theirs.bias[place].data.copy_(layer.bias_I[:, None])
    for gate, weight_I in zip(theirs.gates, ours.gates.weight, strict=True):
        gate.weight.data.copy_(weight_I[None])
    x_BI = torch.randn(5, 7, generator=seeded(1))
    torch.testing.assert_close(ours(x_BI), theirs(x_BI))


def test_low_rank_and_mixture_are_what_the_config_says() -> None:
    assert isinstance(build(DCNv2Config(rank=2)).cross, CrossNetwork)
    assert isinstance(build(DCNv2Config(rank=2, num_experts=3)).cross, CrossMixture)
    with pytest.raises(ConfigError, match="num_experts=2 mixes low-rank layers; set rank, or num_experts=1"):
        build_config({"kind": "dcnv2", "num_experts": 2})


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_gradients_equal_finite_differences(structure: str) -> None:
    config = DCNv2Config(structure=structure, num_cross_layers=2, hidden_sizes=[5], first_order=True)
    model = build(config).double()
    randomize(model)
    batch = tuple(x.requires_grad_() for x in inputs(num_first_order=4, dtype=torch.float64))
    assert torch.autograd.gradcheck(model, batch)
    assert torch.autograd.gradcheck(lambda *parameters: model(*batch).sum(), tuple(model.parameters()))


def test_same_seed_same_weights() -> None:
    first, second, other = (build(DCNv2Config(hidden_sizes=[8]), seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.output.weight, other.output.weight)


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        # I = 14: cross 2·(14² + 14), MLP 14·5 + 5, output 14 + 5 + 1
        (DCNv2Config(num_cross_layers=2, hidden_sizes=[5]), (4, 3, 2), 420 + 75 + 20),
        (DCNv2Config(num_cross_layers=2, hidden_sizes=[5], structure="stacked"), (4, 3, 2), 420 + 75 + 6),
        (DCNv2Config(num_cross_layers=2, hidden_sizes=[5], first_order=True), (4, 3, 2), 420 + 75 + 20 + 2),
        # BARS, Frappe_x1: 458,391 in all, less 5,389 ids of width 10
        (DCNv2Config(num_cross_layers=4, batch_norm=True), (10, 10, 0), 458_391 - 53_890),
    ],
)
def test_parameter_count(config: DCNv2Config, shape: tuple[int, int, int], expected: int) -> None:
    num_features, embedding_dim, num_numbers = shape
    model = build(config, num_features=num_features, embedding_dim=embedding_dim, num_numbers=num_numbers)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_needs_first_order_follows_the_option() -> None:
    assert not DCNv2Config().needs_first_order
    assert DCNv2Config(first_order=True).needs_first_order
    with pytest.raises(AssertionError, match="first_order"):
        build(DCNv2Config(first_order=True))(*inputs(num_first_order=0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"structure": "both"}, "model.structure='both': give parallel or stacked or cross"),
        ({"num_cross_layers": 0}, "model.num_cross_layers=0: give a whole number of at least 1"),
        ({"hidden_sizes": "400"}, "model.hidden_sizes='400': give a list"),
        ({"hidden_sizes": [400, 0]}, r"model.hidden_sizes\[1\]=0: give a whole number of at least 1"),
        ({"dropout": -0.1}, "model.dropout=-0.1: give a number of at least 0 and below 1"),
        ({"batch_norm": 1}, "model.batch_norm=1: give true or false"),
        ({"first_order": None}, "model.first_order=null: give true or false"),
    ],
)
def test_bad_config(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({"kind": "dcnv2", **fields})
