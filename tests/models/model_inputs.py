"""What models are built from and given in tests, and how they are told values to be tested with."""

from collections.abc import Callable

import numpy as np
import torch

from recsys.models import MODELS, build_config
from recsys.models.inputs import BagVectors, Inputs

NAMES = ("user", "item", "liked", "genres", "hour", "age", "work", "place", "kind", "day")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs_of(num_features: int = 4, embedding_dim: int = 3, num_numbers: int = 2) -> Inputs:
    """The third feature is a history of the second, the fourth a bag of its own."""
    names = NAMES[:num_features]
    targets = {name: target for name, target in (("liked", "item"), ("genres", None)) if name in names}
    return Inputs(feature_names=names, embedding_dim=embedding_dim, num_numbers=num_numbers, targets=targets)


def randomized(model: torch.nn.Module, seed: int = 9, std: float = 0.5) -> torch.nn.Module:
    """The model with a value in every parameter, those that start at zero included."""
    generator = seeded(seed)
    for parameter in model.parameters():
        parameter.data.normal_(std=std, generator=generator)
    return model


def built(kind: str, inputs: Inputs, **fields: object) -> torch.nn.Module:
    """A model of random values, ready to be read by numpy."""
    config = build_config({"kind": kind, **fields})
    return randomized(MODELS[kind](config, inputs, generator=seeded(0)))


def batch_for(
    model: torch.nn.Module, inputs: Inputs, num_examples: int = 6, dtype: torch.dtype = torch.float32
) -> tuple:
    """Random arguments of ``forward``, as the model's config asks for them."""
    generator, config = seeded(1), model.config
    first_order = inputs.num_features if config.needs_first_order else 0
    shapes = [
        (num_examples, inputs.num_features, config.row_dim(inputs)),
        (num_examples, first_order),
        (num_examples, inputs.num_numbers),
    ]
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return (*drawn, bags_for(inputs, num_examples, dtype)) if config.needs_bag_vectors else tuple(drawn)


def bags_for(inputs: Inputs, num_examples: int, dtype: torch.dtype = torch.float32) -> dict[str, BagVectors]:
    """Bags of 0, 1, 2, 0, 1, 2 … vectors."""
    examples_N = torch.repeat_interleave(torch.arange(num_examples), torch.arange(num_examples) % 3)
    shape = (len(examples_N), inputs.embedding_dim)
    return {
        name: BagVectors(torch.randn(shape, generator=seeded(2), dtype=dtype), examples_N) for name in inputs.targets
    }


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def mlp_by_numpy(weights: dict[str, np.ndarray], prefix: str, x: np.ndarray, num_layers: int = 1) -> np.ndarray:
    """ReLU of affine layers ``prefix``.0, ``prefix``.2, …"""
    for layer in range(0, 2 * num_layers, 2):
        x = np.maximum(weights[f"{prefix}.{layer}.weight"] @ x + weights[f"{prefix}.{layer}.bias"], 0)
    return x


def tower_by_numpy(weights: dict[str, np.ndarray], x: np.ndarray, num_layers: int = 1) -> float:
    """An MLP and its logit."""
    hidden = mlp_by_numpy(weights, "tower.mlp.layers", x, num_layers)
    bias = weights.get("tower.output.bias", np.zeros(1))
    return float(weights["tower.output.weight"][0] @ hidden + bias[0])


def linear_by_numpy(weights: dict[str, np.ndarray], first_order_F: np.ndarray, numbers_M: np.ndarray) -> float:
    """Σ_f first_order_f + uᵀ numbers (+ bias)."""
    bias = weights.get("first_order.bias", 0.0)
    return float(first_order_F.sum() + weights["first_order.number_weights"] @ numbers_M + bias)


def assert_reads(model: torch.nn.Module, inputs: Inputs, logit: Callable[..., float]) -> None:
    """The model's logits are those that ``logit(weights, v_FD, first_order_F, numbers_M)`` reads from its equation."""
    batch = batch_for(model, inputs)
    weights = weights_of(model)
    expected_B = [logit(weights, *example) for example in zip(*(x.numpy() for x in batch), strict=True)]
    logits_B = model(*batch)
    assert logits_B.shape == (6,)
    np.testing.assert_allclose(logits_B.detach().numpy(), expected_B, rtol=1e-4, atol=1e-5)
