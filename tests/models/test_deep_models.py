"""DNN, IPNN, Wide&Deep, DCN, GDCN, xDeepFM and DLRM against numpy readings of their equations and against torchrec."""

import itertools

import numpy as np
import pytest
import torch
from model_inputs import (
    assert_reads,
    batch_for,
    built,
    inputs_of,
    linear_by_numpy,
    mlp_by_numpy,
    randomized,
    seeded,
    sigmoid,
    tower_by_numpy,
)
from torchrec.models.dlrm import InteractionArch
from torchrec.modules.crossnet import VectorCrossNet

from recsys.errors import ConfigError
from recsys.models import build_config
from recsys.models.dcn import VectorCrossNetwork

Weights = dict[str, np.ndarray]


def flat(v_FD: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    return np.concatenate([v_FD.ravel(), *rest])


@pytest.mark.parametrize("num_numbers", [0, 2])
def test_dnn(num_numbers: int) -> None:
    inputs = inputs_of(num_numbers=num_numbers)
    model = built("dnn", inputs, hidden_sizes=[5, 4])
    assert_reads(model, inputs, lambda weights, v_FD, _, numbers_M: tower_by_numpy(weights, flat(v_FD, numbers_M), 2))


def test_ipnn() -> None:
    def logit(weights: Weights, v_FD: np.ndarray, _: np.ndarray, numbers_M: np.ndarray) -> float:
        dots = np.array([a @ b for a, b in itertools.combinations(v_FD, 2)])
        return tower_by_numpy(weights, flat(v_FD, numbers_M, dots))

    assert_reads(built("ipnn", inputs_of(), hidden_sizes=[5]), inputs_of(), logit)


def test_wide_deep() -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        assert "first_order.bias" not in weights
        return linear_by_numpy(weights, first_F, numbers_M) + tower_by_numpy(weights, flat(v_FD, numbers_M))

    assert_reads(built("wide_deep", inputs_of(), hidden_sizes=[5]), inputs_of(), logit)


@pytest.mark.parametrize("hidden_sizes", [[], [5]])
def test_dcn(hidden_sizes: list[int]) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, _: np.ndarray, numbers_M: np.ndarray) -> float:
        x0 = flat(v_FD, numbers_M)
        x = x0
        for layer in range(2):
            x = x0 * (weights[f"cross.weights.{layer}.weight"][0] @ x) + weights[f"cross.biases.{layer}"] + x
        joined = np.concatenate([x, mlp_by_numpy(weights, "mlp.layers", x0)]) if hidden_sizes else x
        return float(weights["output.weight"][0] @ joined + weights["output.bias"][0])

    assert_reads(built("dcn", inputs_of(), num_cross_layers=2, hidden_sizes=hidden_sizes), inputs_of(), logit)


def test_dcns_cross_network_equals_torchrecs() -> None:
    ours = randomized(VectorCrossNetwork(7, 3, generator=seeded(0)))
    theirs = VectorCrossNet(in_features=7, num_layers=3)
    for layer in range(3):
        theirs.kernels[layer].data.copy_(ours.weights[layer].weight.T)
        theirs.bias[layer].data.copy_(ours.biases[layer][:, None])
    x_BI = torch.randn(5, 7, generator=seeded(1))
    torch.testing.assert_close(ours(x_BI), theirs(x_BI))


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_gdcn(structure: str) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, _: np.ndarray, numbers_M: np.ndarray) -> float:
        c0 = flat(v_FD, numbers_M)
        c = c0
        for layer in range(2):
            crossed = weights[f"cross.layers.{layer}.weight"] @ c + weights[f"cross.layers.{layer}.bias"]
            c = c0 * crossed * sigmoid(weights[f"cross.gates.{layer}.weight"] @ c) + c
        if structure == "parallel":
            joined = np.concatenate([c, mlp_by_numpy(weights, "mlp.layers", c0)])
        else:
            joined = mlp_by_numpy(weights, "mlp.layers", c)
        return float(weights["output.weight"][0] @ joined + weights["output.bias"][0])

    model = built("gdcn", inputs_of(), structure=structure, num_cross_layers=2, hidden_sizes=[5])
    assert_reads(model, inputs_of(), logit)


@pytest.mark.parametrize("split_half", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("hidden_sizes", [[], [5]])
def test_xdeepfm(split_half: bool, activation: str, hidden_sizes: list[int]) -> None:
    sizes = [4, 2, 3]

    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        rows, pooled = v_FD, []
        for layer, size in enumerate(sizes):
            weight = weights[f"cin.layers.{layer}.weight"].reshape(size, len(rows), len(v_FD))
            bias = weights[f"cin.layers.{layer}.bias"]
            rows = np.array(
                [
                    sum(weight[h, i, j] * rows[i] * v_FD[j] for i in range(len(rows)) for j in range(len(v_FD)))
                    + bias[h]
                    for h in range(size)
                ]
            )
            rows = np.maximum(rows, 0) if activation == "relu" else rows
            last = layer == len(sizes) - 1
            pooled += [row.sum() for row in (rows[size // 2 :] if split_half and not last else rows)]
            rows = rows[: size // 2] if split_half else rows
        cin = weights["cin_output.weight"][0] @ np.array(pooled) + weights["cin_output.bias"][0]
        deep = tower_by_numpy(weights, flat(v_FD, numbers_M)) if hidden_sizes else 0
        return float(linear_by_numpy(weights, first_F, numbers_M) + cin + deep)

    fields = {"cin_sizes": sizes, "cin_activation": activation, "split_half": split_half, "hidden_sizes": hidden_sizes}
    assert_reads(built("xdeepfm", inputs_of(), **fields), inputs_of(), logit)


def test_an_odd_layer_can_not_be_split_in_half() -> None:
    with pytest.raises(ConfigError, match=r"model: cin_sizes=\[3, 2\]: split_half halves all but the last"):
        build_config({"kind": "xdeepfm", "cin_sizes": [3, 2], "split_half": True})
    assert build_config({"kind": "xdeepfm", "cin_sizes": [2, 3], "split_half": True}).cin_sizes == (2, 3)


@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("num_numbers", [0, 2])
def test_dlrm(interaction: str, num_numbers: int) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, _: np.ndarray, numbers_M: np.ndarray) -> float:
        bottom = [mlp_by_numpy(weights, "bottom.layers", numbers_M, 2)] if num_numbers else []
        if interaction == "dot":
            pairs = itertools.combinations([*bottom, *v_FD], 2)
            return tower_by_numpy(weights, np.concatenate([*bottom, np.array([a @ b for a, b in pairs])]))
        return tower_by_numpy(weights, np.concatenate([*bottom, v_FD.ravel()]))

    inputs = inputs_of(num_numbers=num_numbers)
    model = built("dlrm", inputs, interaction=interaction, bottom_hidden_sizes=[4], hidden_sizes=[5])
    assert_reads(model, inputs, logit)


def test_dlrms_interaction_equals_torchrecs() -> None:
    inputs = inputs_of()
    model = built("dlrm", inputs, hidden_sizes=[5])
    embeddings_BFD, _, numbers_BM = batch_for(model, inputs)
    seen: list[torch.Tensor] = []
    model.tower.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model(embeddings_BFD, torch.zeros(6, 0), numbers_BM)
    torch.testing.assert_close(seen[0], InteractionArch(4)(model.bottom(numbers_BM), embeddings_BFD))
