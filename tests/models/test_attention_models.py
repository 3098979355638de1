"""AutoInt, FiBiNET, MaskNet, FinalMLP and EulerNet against numpy readings of their equations."""

import itertools

import numpy as np
import pytest
from model_inputs import (
    assert_reads,
    built,
    inputs_of,
    linear_by_numpy,
    mlp_by_numpy,
    seeded,
    sigmoid,
    softmax,
    tower_by_numpy,
)

from recsys.errors import ConfigError
from recsys.models import build_config
from recsys.models.eulernet import EulerNet

Weights = dict[str, np.ndarray]
PARTS = ("real", "imaginary")


def flat(v_FD: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    return np.concatenate([v_FD.ravel(), *rest])


def normal(x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gain + bias


def attended(weights: Weights, prefix: str, x_FD: np.ndarray, *, residual: bool, scale: bool, norm: bool) -> np.ndarray:
    """One layer of two heads, feature by feature."""
    queries, keys, values = (x_FD @ weights[f"{prefix}.{part}.weight"].T for part in ("query", "key", "value"))
    size, rows = queries.shape[1] // 2, []
    for f in range(len(x_FD)):
        heads = []
        for h in (slice(0, size), slice(size, 2 * size)):
            scores = np.array([queries[f, h] @ key for key in keys[:, h]])
            heads.append(softmax(scores / np.sqrt(size) if scale else scores) @ values[:, h])
        row = np.concatenate(heads)
        if residual:
            name = f"{prefix}.residual.weight"
            row = row + (weights[name] @ x_FD[f] if name in weights else x_FD[f])
        if norm:
            row = normal(row, weights[f"{prefix}.norm.weight"], weights[f"{prefix}.norm.bias"])
        rows.append(np.maximum(row, 0))
    return np.array(rows)


@pytest.mark.parametrize(
    ("residual", "scale", "norm", "first_order", "hidden_sizes"),
    [(True, False, False, False, []), (False, True, False, True, [5]), (True, True, True, True, [5])],
)
def test_autoint(residual: bool, scale: bool, norm: bool, first_order: bool, hidden_sizes: list[int]) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        x = v_FD
        for layer in range(2):
            x = attended(weights, f"attention.{layer}", x, residual=residual, scale=scale, norm=norm)
        out = weights["output.weight"][0] @ flat(x, numbers_M) + weights["output.bias"][0]
        deep = tower_by_numpy(weights, flat(v_FD, numbers_M)) if hidden_sizes else 0
        wide = linear_by_numpy(weights, first_F, numbers_M) if first_order else 0
        return float(out + deep + wide)

    fields = {"residual": residual, "scale": scale, "layer_norm": norm, "first_order": first_order}
    sizes = {"num_layers": 2, "num_heads": 2, "attention_size": 4, "hidden_sizes": hidden_sizes}
    assert_reads(built("autoint", inputs_of(), **fields, **sizes), inputs_of(), logit)


def test_autoints_heads_share_its_size() -> None:
    with pytest.raises(ConfigError, match="attention_size=10 is no multiple of num_heads=4"):
        build_config({"kind": "autoint", "attention_size": 10, "num_heads": 4})


@pytest.mark.parametrize("bilinear", ["all", "each", "interaction"])
def test_fibinet(bilinear: str) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        squeezed = v_FD.mean(axis=1)
        excited = np.maximum(weights["senet.excitation.0.weight"] @ squeezed, 0)
        shares = np.maximum(weights["senet.excitation.2.weight"] @ excited, 0)
        matrices, products = weights["bilinear.weights_WDD"], []
        for u_FD in (v_FD, shares[:, None] * v_FD):
            for place, (i, j) in enumerate(itertools.combinations(range(len(v_FD)), 2)):
                matrix = matrices[{"all": 0, "each": i, "interaction": place}[bilinear]]
                products.append((u_FD[i] @ matrix) * u_FD[j])
        return linear_by_numpy(weights, first_F, numbers_M) + tower_by_numpy(
            weights, flat(np.array(products), numbers_M)
        )

    model = built("fibinet", inputs_of(), bilinear=bilinear, reduction_ratio=2, hidden_sizes=[5])
    assert len(model.bilinear.weights_WDD) == {"all": 1, "each": 3, "interaction": 6}[bilinear]
    assert_reads(model, inputs_of(), logit)


def mask_block(weights: Weights, prefix: str, x: np.ndarray, body: np.ndarray) -> np.ndarray:
    hidden = mlp_by_numpy(weights, f"{prefix}.mask", x)
    mask = weights[f"{prefix}.mask.2.weight"] @ hidden + weights[f"{prefix}.mask.2.bias"]
    out = weights[f"{prefix}.hidden.0.weight"] @ (mask * body)
    return np.maximum(normal(out, weights[f"{prefix}.hidden.1.weight"], weights[f"{prefix}.hidden.1.bias"]), 0)


@pytest.mark.parametrize("structure", ["parallel", "serial"])
@pytest.mark.parametrize("embedding_layer_norm", [False, True])
def test_masknet(structure: str, embedding_layer_norm: bool) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, _: np.ndarray, numbers_M: np.ndarray) -> float:
        x = body = flat(v_FD, numbers_M)
        if embedding_layer_norm:
            norms = zip(v_FD, weights["norm.gains_FD"], weights["norm.biases_FD"], strict=True)
            body = flat(np.array([normal(*one) for one in norms]), numbers_M)
        if structure == "parallel":
            outs = [mask_block(weights, f"blocks.{k}", x, body) for k in range(2)]
            hidden = mlp_by_numpy(weights, "head.mlp.layers", np.concatenate(outs))
            return float(weights["head.output.weight"][0] @ hidden + weights["head.output.bias"][0])
        for k in range(2):
            body = mask_block(weights, f"blocks.{k}", x, body)
        return float(weights["head.0.weight"][0] @ body + weights["head.0.bias"][0])

    sizes = {"num_blocks": 2, "block_size": 4, "hidden_sizes": [5] if structure == "parallel" else [5, 4]}
    fields = {"structure": structure, "embedding_layer_norm": embedding_layer_norm, "reduction_ratio": 0.5}
    assert_reads(built("masknet", inputs_of(), **fields, **sizes), inputs_of(), logit)


def test_serial_masknet_has_no_mlp_to_normalise() -> None:
    with pytest.raises(ConfigError, match="structure=serial has no MLP for batch_norm=true"):
        build_config({"kind": "masknet", "structure": "serial", "batch_norm": True})


@pytest.mark.parametrize("context", [None, [], ["liked", "user"]])
def test_finalmlp(context: list[str] | None) -> None:
    places = [2, 0]

    def gate(weights: Weights, k: int, v_FD: np.ndarray) -> np.ndarray:
        read = v_FD[places].ravel() if context else weights[f"gates.{k}.vector_D"]
        hidden = mlp_by_numpy(weights, f"gates.{k}.mlp.layers", read)
        return 2 * sigmoid(weights[f"gates.{k}.output.weight"] @ hidden + weights[f"gates.{k}.output.bias"])

    def logit(weights: Weights, v_FD: np.ndarray, _: np.ndarray, numbers_M: np.ndarray) -> float:
        x = flat(v_FD, numbers_M)
        gated = [x if context is None else x * gate(weights, k, v_FD) for k in (0, 1)]
        first, second = (mlp_by_numpy(weights, f"streams.{k}.layers", h) for k, h in enumerate(gated))
        out = weights["fusion.first.weight"][0] @ first + weights["fusion.first.bias"][0]
        out += weights["fusion.second.weight"][0] @ second + weights["fusion.second.bias"][0]
        for head, matrix in enumerate(weights["fusion.weights_HST"]):
            out += np.split(first, 2)[head] @ matrix @ np.split(second, 2)[head]
        return float(out)

    fields = {"gates": context is not None, "first_context": context or [], "second_context": context or []}
    sizes = {"first_hidden_sizes": [6], "second_hidden_sizes": [4], "gate_hidden_sizes": [5], "num_heads": 2}
    assert_reads(built("finalmlp", inputs_of(), **fields, **sizes), inputs_of(), logit)


def test_finalmlps_context_is_of_features_and_its_heads_share_its_outputs() -> None:
    with pytest.raises(ConfigError, match="unknown feature of the model 'age'; known: user, item, liked, genres"):
        built("finalmlp", inputs_of(), first_context=["age"])
    with pytest.raises(ConfigError, match=r"second_hidden_sizes=\[9\]: the last is no multiple of num_heads=2"):
        build_config({"kind": "finalmlp", "second_hidden_sizes": [9], "num_heads": 2})


@pytest.mark.parametrize("layer_norm", [False, True])
def test_eulernet(layer_norm: bool) -> None:
    def layer(weights: Weights, prefix: str, z_FD: np.ndarray) -> np.ndarray:
        """A layer in complex numbers: products of powers, as the paper introduces it."""
        orders, implicit = weights[f"{prefix}.orders_KF"], []
        for part in (z_FD.real, z_FD.imag):
            mixed = weights[f"{prefix}.implicit.weight"] @ part.ravel() + weights[f"{prefix}.implicit.bias"]
            implicit.append(np.maximum(mixed, 0).reshape(len(orders), -1))
        bias = np.exp(weights[f"{prefix}.log_bias_KD"] + 1j * weights[f"{prefix}.phase_bias_KD"])
        powers = np.array([np.prod(z_FD ** order[:, None], axis=0) for order in orders])
        out = powers * bias + implicit[0] + 1j * implicit[1]
        if not layer_norm:
            return out
        norms = {part: [weights[f"{prefix}.{part}_norm.{w}"] for w in ("weight", "bias")] for part in PARTS}
        real, imaginary = (
            np.array([normal(x, *norms[part]) for x in values])
            for part, values in zip(PARTS, (out.real, out.imag), strict=True)
        )
        return real + 1j * imaginary

    def logit(weights: Weights, v_FD: np.ndarray, _: np.ndarray, numbers_M: np.ndarray) -> float:
        z = np.abs(weights["moduli_F1"]) * np.exp(1j * (v_FD + np.pi * (weights["moduli_F1"] < 0)))
        for place in range(2):
            z = layer(weights, f"layers.{place}", z)
        output, bias = weights["output.weight"][0], weights["output.bias"][0]
        parts = output @ z.real.ravel() + bias + output @ z.imag.ravel() + bias
        return float(parts + weights["number_weights"] @ numbers_M)

    assert_reads(built("eulernet", inputs_of(), order_sizes=[4, 2], layer_norm=layer_norm), inputs_of(), logit)


def test_eulernets_orders_begin_as_those_of_the_features() -> None:
    model = EulerNet(build_config({"kind": "eulernet", "order_sizes": [4, 7]}), inputs_of(), generator=seeded(0))
    np.testing.assert_array_equal(model.layers[0].orders_KF.detach().numpy(), np.eye(4))
    np.testing.assert_allclose(model.layers[1].orders_KF.detach().numpy().sum(axis=1), np.ones(7), rtol=1e-6)
