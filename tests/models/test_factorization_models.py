"""LR, FM, FFM, FwFM, AFM and NFM, each against a numpy reading of its equation, pair by pair."""

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
    seeded,
    softmax,
    tower_by_numpy,
)

from recsys.errors import ConfigError
from recsys.models import MODELS, build_config

Weights = dict[str, np.ndarray]


@pytest.mark.parametrize("num_numbers", [0, 2])
def test_lr(num_numbers: int) -> None:
    inputs = inputs_of(num_numbers=num_numbers)
    model = built("lr", inputs)
    assert model.config.row_dim(inputs) == 0
    assert_reads(model, inputs, lambda weights, _, first_F, numbers_M: linear_by_numpy(weights, first_F, numbers_M))


def test_an_fm_without_weights_of_ids_is_matrix_factorisation() -> None:
    model = built("fm", inputs_of(2, 3, 0), first_order=False)
    embeddings_BFD, first_BF, numbers_BM = torch.randn(5, 2, 3), torch.randn(5, 2), torch.zeros(5, 0)
    assert not model.config.needs_first_order
    with torch.no_grad():
        model.first_order.bias.fill_(0.5)
    expected = 0.5 + (embeddings_BFD[:, 0] * embeddings_BFD[:, 1]).sum(1)
    torch.testing.assert_close(model(embeddings_BFD, first_BF[:, :0], numbers_BM), expected)


@pytest.mark.parametrize("places", [(), (0,), (0, 1, 2)])
def test_two_sides_of_an_fm_are_the_whole(places: tuple[int, ...]) -> None:
    """However its features and numbers are shared out."""
    model = built("fm", inputs_of(4, 3, 2))
    embeddings_BFD, first_BF, numbers_BM = batch_for(model, inputs_of(4, 3, 2), 5)[:3]
    rest = [at for at in range(4) if at not in places]
    vectors, own = model.side(embeddings_BFD[:, places], first_BF[:, places], numbers_BM[:, [1]], [1])
    others, their = model.side(embeddings_BFD[:, rest], first_BF[:, rest], numbers_BM[:, [0]], [0])
    logits_B = model.first_order.bias + own + their + (vectors * others).sum(1)
    torch.testing.assert_close(logits_B, model(embeddings_BFD, first_BF, numbers_BM))


@pytest.mark.parametrize("num_features", [1, 4])
def test_fm(num_features: int) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        crossed = sum(a @ b for a, b in itertools.combinations(v_FD, 2))
        return linear_by_numpy(weights, first_F, numbers_M) + crossed

    assert_reads(built("fm", inputs_of(num_features)), inputs_of(num_features), logit)


@pytest.mark.parametrize("num_features", [2, 5])
def test_ffm_meets_each_other_feature_with_a_vector_of_its_own(num_features: int) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        vectors: dict[tuple[int, int], np.ndarray] = {}
        for i, row in enumerate(v_FD):
            others = [j for j in range(num_features) if j != i]
            vectors |= {(i, j): part for j, part in zip(others, np.split(row, num_features - 1), strict=True)}
        crossed = sum(vectors[i, j] @ vectors[j, i] for i, j in itertools.combinations(range(num_features), 2))
        return linear_by_numpy(weights, first_F, numbers_M) + crossed

    inputs = inputs_of(num_features)
    model = built("ffm", inputs)
    assert model.config.row_dim(inputs) == 3 * (num_features - 1)
    assert_reads(model, inputs, logit)


@pytest.mark.parametrize("linear", ["weight", "id_vector", "feature_vector"])
def test_fwfm(linear: str) -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        v_FD, own_FD = v_FD[:, :3], v_FD[:, 3:]
        strengths = zip(weights["pair_weights.weight"][0], itertools.combinations(v_FD, 2), strict=True)
        crossed = sum(r * (a @ b) for r, (a, b) in strengths)
        if linear == "weight":
            of_ids = first_F.sum()
        elif linear == "id_vector":
            of_ids = sum(v @ w for v, w in zip(v_FD, own_FD, strict=True))
        else:
            of_ids = v_FD.ravel() @ weights["feature_vectors.weight"][0]
        return float(weights["pair_weights.bias"][0] + of_ids + weights["number_weights"] @ numbers_M + crossed)

    inputs = inputs_of()
    model = built("fwfm", inputs, linear=linear)
    assert model.config.row_dim(inputs) == (6 if linear == "id_vector" else 3)
    assert_reads(model, inputs, logit)


def test_afm() -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        products = np.array([a * b for a, b in itertools.combinations(v_FD, 2)])
        hidden = np.maximum(products @ weights["attention.0.weight"].T + weights["attention.0.bias"], 0)
        shares = softmax(hidden @ weights["attention.2.weight"][0])
        pooled = sum(share * product for share, product in zip(shares, products, strict=True))
        return linear_by_numpy(weights, first_F, numbers_M) + weights["output.weight"][0] @ pooled

    assert_reads(built("afm", inputs_of(), attention_size=5), inputs_of(), logit)


def test_nfm() -> None:
    def logit(weights: Weights, v_FD: np.ndarray, first_F: np.ndarray, numbers_M: np.ndarray) -> float:
        pooled = sum(a * b for a, b in itertools.combinations(v_FD, 2))
        deep = tower_by_numpy(weights, np.concatenate([pooled, numbers_M]), 2)
        return linear_by_numpy(weights, first_F, numbers_M) + deep

    assert_reads(built("nfm", inputs_of(), hidden_sizes=[5, 4]), inputs_of(), logit)


@pytest.mark.parametrize("kind", ["ffm", "fwfm", "afm", "ipnn", "fibinet", "dlrm"])
def test_one_feature_makes_no_pair(kind: str) -> None:
    config, inputs = build_config({"kind": kind}), inputs_of(1, num_numbers=0)
    with pytest.raises(ConfigError, match=r"crosses pairs of features, and \['user'\] makes none"):
        MODELS[kind](config, inputs, generator=seeded(0))


@pytest.mark.parametrize("kind", ["lr", "fm", "ffm", "afm", "nfm", "wide_deep", "xdeepfm", "fibinet"])
def test_a_forgotten_first_order_is_not_taken_for_zero(kind: str) -> None:
    inputs = inputs_of()
    model = built(kind, inputs)
    embeddings_BFD = torch.zeros(2, 4, model.config.row_dim(inputs))
    with pytest.raises(AssertionError, match="first-order value"):
        model(embeddings_BFD, torch.zeros(2, 0), torch.zeros(2, 2))


def test_afms_dropouts_are_on_the_weights_and_on_what_they_pool() -> None:
    model = built("afm", inputs_of(), attention_dropout=0.25, dropout=0.5)
    assert (model.attention_dropout.p, model.dropout.p) == (0.25, 0.5)
