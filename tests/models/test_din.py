"""DIN against a numpy reading of its equation, history by history."""

import numpy as np
import pytest
import torch
from model_inputs import bags_for, batch_for, built, inputs_of, mlp_by_numpy, seeded, softmax, weights_of

from recsys.errors import ConfigError
from recsys.models.din import Dice
from recsys.models.inputs import Inputs

Weights = dict[str, np.ndarray]


def mlp(weights: Weights, prefix: str, x: np.ndarray) -> float:
    hidden = mlp_by_numpy(weights, f"{prefix}.layers", x)
    return float(weights[f"{prefix}.layers.2.weight"][0] @ hidden + weights[f"{prefix}.layers.2.bias"][0])


def interest(weights: Weights, history_ND: np.ndarray, target_D: np.ndarray, normalised: bool) -> np.ndarray:
    pairs = [np.concatenate([h, target_D, h - target_D, h * target_D]) for h in history_ND]
    strengths = np.array([mlp(weights, "attention.0.unit", pair) for pair in pairs])
    strengths = softmax(strengths) if normalised and len(strengths) else strengths
    return sum((a * h for a, h in zip(strengths, history_ND, strict=True)), np.zeros(len(target_D)))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("targets", [{}, {"genres": "user"}])
def test_logits_equal_the_papers_equation(normalised: bool, targets: dict[str, str]) -> None:
    inputs = inputs_of()
    sizes = {"attention_hidden_sizes": [5], "hidden_sizes": [6]}
    model = built("din", inputs, softmax=normalised, activation="relu", targets=targets, **sizes)
    embeddings_BFD, first_BF, numbers_BM, bags = batch_for(model, inputs)
    (history, target), *_ = (targets or {"liked": "item"}).items()
    weights, expected = weights_of(model), []
    for b, (v_FD, numbers_M) in enumerate(zip(embeddings_BFD.numpy(), numbers_BM.numpy(), strict=True)):
        features = v_FD.copy()
        its_ND = bags[history].vectors_ND[bags[history].examples_N == b].numpy()
        assert len(its_ND) == b % 3
        features[inputs.place(history)] = interest(weights, its_ND, v_FD[inputs.place(target)], normalised)
        expected.append(mlp(weights, "mlp", np.concatenate([features.ravel(), numbers_M])))
    logits_B = model(embeddings_BFD, first_BF, numbers_BM, bags)
    np.testing.assert_allclose(logits_B.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_softmax_of_large_scores_does_not_overflow() -> None:
    inputs = inputs_of()
    model = built("din", inputs, softmax=True, activation="relu")
    model.attention[0].unit.layers[-1].bias.data.fill_(1000.0)
    batch = batch_for(model, inputs)
    assert torch.isfinite(model(*batch)).all()


@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
def test_a_batch_without_any_history_is_learned_from(activation: str) -> None:
    inputs = inputs_of()
    model = built("din", inputs, activation=activation)
    nothing = {name: bag._replace(vectors_ND=bag.vectors_ND[:0], examples_N=bag.examples_N[:0])
               for name, bag in bags_for(inputs, 6).items()}  # fmt: skip
    batch = batch_for(model, inputs)
    logits_B = model(*batch[:3], nothing)
    logits_B.sum().backward()
    assert torch.isfinite(logits_B).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_dice_is_its_equation_in_training_and_after() -> None:
    dice = Dice(3)
    dice.slopes_O.data.copy_(torch.tensor([0.1, -0.2, 0.3]))
    s_NO = torch.randn(8, 3, generator=seeded(0)).numpy().astype(np.float64)
    slopes = dice.slopes_O.detach().numpy()

    def expected(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        on = 1 / (1 + np.exp(-(s_NO - mean) / np.sqrt(variance + 1e-8)))
        return on * s_NO + (1 - on) * slopes * s_NO

    trained = dice(torch.from_numpy(s_NO).float()).detach().numpy()
    np.testing.assert_allclose(trained, expected(s_NO.mean(0), s_NO.var(0)), rtol=1e-4, atol=1e-6)
    later = dice.eval()(torch.from_numpy(s_NO).float()).detach().numpy()
    running = 0.1 * s_NO.mean(0), 0.9 + 0.1 * s_NO.var(0, ddof=1)
    np.testing.assert_allclose(later, expected(*running), rtol=1e-4, atol=1e-6)


def test_a_history_must_be_there_and_be_a_bag() -> None:
    with pytest.raises(ConfigError, match=r"model\.kind='din' needs a history, and no bag or sequence feature reads"):
        built("din", Inputs(feature_names=("user", "genres"), embedding_dim=3, targets={"genres": None}))
    with pytest.raises(ConfigError, match=r"unknown history in model\.targets: 'user'; known: liked, genres"):
        built("din", inputs_of(), targets={"user": "item"})
    with pytest.raises(ConfigError, match="unknown feature of the model 'film'"):
        built("din", inputs_of(), targets={"liked": "film"})
