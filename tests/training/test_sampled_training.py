"""Learning from a sampled stream: the corrected loss has the whole stream's optimum, predictions stay as they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import batch_of, blueprint, trainer_of

from recsys.batches.batch import KeepRates, LabelledBatch
from recsys.training.trainer import cross_entropy

RATE = st.floats(0.01, 1)
SHARE = st.floats(0.02, 1)


def rates_of(own: list[float], positives: float, negatives: float) -> KeepRates:
    size = len(own)
    return KeepRates(np.array(own, np.float32), *(np.full(size, r, np.float32) for r in (positives, negatives)))


def gradients(logit: float, labels: list[float], rates: KeepRates | None) -> np.ndarray:
    """Of each example's loss, by its logit."""
    logits_B = torch.full((len(labels),), logit, dtype=torch.float32, requires_grad=True)
    cross_entropy(logits_B, torch.tensor(labels, dtype=torch.float32), rates).sum().backward()
    assert logits_B.grad is not None
    return logits_B.grad.numpy().astype(np.float64)


@given(
    st.floats(-4, 4),
    st.tuples(SHARE, SHARE, SHARE, SHARE, SHARE),
    st.tuples(RATE, RATE, RATE, RATE, RATE),
)
def test_the_expected_gradient_is_the_whole_streams_but_for_a_factor_of_the_prediction(
    logit: float, shares: tuple[float, ...], rates: tuple[float, ...]
) -> None:
    """At one x: nothing done, skipped (label 0), looked (¼), clicked, bought (1), in any shares, at any rates.

    The factor is above 0 and the same for every label, so the corrected gradient is 0 just where the whole one is.
    """
    labels, negatives = [0.0, 0.0, 0.25, 1.0, 1.0], rates[0]
    shares_T = np.array(shares) / sum(shares)
    positives = max(rates[1:])
    sampled_T = gradients(logit, labels, rates_of(list(rates), positives, negatives))
    expected_sampled = (shares_T * np.array(rates) * sampled_T).sum()
    whole = (shares_T * gradients(logit, labels, None)).sum()
    factor = positives * negatives * (1 + np.exp(logit)) / (negatives + positives * np.exp(logit))
    assert expected_sampled == pytest.approx(factor * whole, rel=1e-4, abs=2e-6)


def test_with_every_positive_kept_it_is_monoliths_correction() -> None:
    """logit − log(sample rate), and no weights."""
    logits_B, labels_B = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, 0.0])
    found_B = cross_entropy(logits_B, labels_B, rates_of([0.1, 1.0, 0.1], 1.0, 0.1))
    shifted_B = torch.sigmoid(logits_B - np.log(0.1))
    expected_B = -torch.log(torch.where(labels_B == 1, shifted_B, 1 - shifted_B))
    torch.testing.assert_close(found_B, expected_B, rtol=1e-5, atol=0)


def test_a_positive_kept_less_often_than_others_counts_for_more() -> None:
    """positives / own of an example."""
    logits_B, labels_B = torch.tensor([0.3, 0.3]), torch.tensor([1.0, 1.0])
    often, seldom = cross_entropy(logits_B, labels_B, rates_of([0.8, 0.2], 0.8, 0.5)).tolist()
    assert seldom == pytest.approx(4 * often, rel=1e-6)


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=8))
def test_rates_of_1_change_nothing_to_the_bit(examples: list[tuple[float, bool]]) -> None:
    logits, labels = zip(*examples, strict=True)
    found = []
    for rates in (None, rates_of([1.0] * len(labels), 1.0, 1.0)):
        logits_B = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
        losses_B = cross_entropy(logits_B, torch.tensor(labels, dtype=torch.float32), rates)
        losses_B.sum().backward()
        found.append((losses_B.tolist(), logits_B.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])  # type: ignore[arg-type]


def sampled(batch: LabelledBatch, negatives: float) -> LabelledBatch:
    own = np.where(batch.labels_B > 0, 1.0, negatives)
    return replace(batch, rates=rates_of(own.tolist(), 1.0, negatives))


def test_predictions_are_the_uncorrected_ones() -> None:
    batch = batch_of([0, 1, 2, 3], [0, 0, 5, 5])
    plain, corrected = trainer_of(blueprint()), trainer_of(blueprint())
    before = plain.predict(batch)
    np.testing.assert_array_equal(plain.step(batch).probabilities_B, before)
    np.testing.assert_array_equal(corrected.step(sampled(batch, 0.01)).probabilities_B, before)
    # the same labels mean less where most negatives were left out
    assert (corrected.predict(batch) < plain.predict(batch)).all()


def test_weights_of_examples_still_count() -> None:
    """The loss of a batch is the mean by its weights, of examples as corrected."""
    batch = sampled(batch_of([0, 1, 2], [0, 0, 5], weights=[1, 2, 0.5]), 0.25)
    trainer = trainer_of(blueprint())
    probabilities_B = torch.from_numpy(trainer.predict(batch)).double()
    losses_B = cross_entropy(torch.logit(probabilities_B).float(), torch.from_numpy(batch.labels_B), batch.rates)
    expected = float((losses_B * torch.tensor([1, 2, 0.5])).sum() / 3.5)
    assert trainer.step(batch).loss == pytest.approx(expected, rel=1e-5)
