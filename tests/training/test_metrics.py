"""Metrics against scikit-learn and counting by hand; progressive ones against slices of the stream."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from recsys.errors import DataError
from recsys.training.metrics import (
    ProgressiveMetrics,
    auc,
    calibration,
    grouped_auc,
    logloss,
    normalized_entropy,
    summary,
)


def stream(num: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Event times, labels and probabilities with many ties."""
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(1, 20, num) / 20
    return np.arange(num) * 1000, (rng.random(num) < probabilities).astype(int), probabilities


def added(num: int, *, chunk: int, seed: int = 0) -> ProgressiveMetrics:
    times, labels, probabilities = stream(num, seed=seed)
    metrics = ProgressiveMetrics()
    for start in range(0, num, chunk):
        part = slice(start, start + chunk)
        metrics.add(time_ms=times[part], labels=labels[part], probabilities=probabilities[part])
    return metrics


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_auc_is_the_share_of_pairs_won(examples: list[tuple[bool, int]]) -> None:
    positives = [score for label, score in examples if label]
    negatives = [score for label, score in examples if not label]
    value = auc(*zip(*examples, strict=True))
    if not positives or not negatives:
        assert math.isnan(value)
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert value == wins / (len(positives) * len(negatives))


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scikit_learn(seed: int) -> None:
    _, labels, probabilities = stream(3000, seed=seed)
    assert auc(labels, probabilities) == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-14)
    assert logloss(labels, probabilities) == pytest.approx(log_loss(labels, probabilities), rel=1e-12)
    base_rate = np.full(3000, labels.mean())
    expected = log_loss(labels, probabilities) / log_loss(labels, base_rate)
    assert normalized_entropy(labels, probabilities) == pytest.approx(expected, rel=1e-12)
    assert calibration(labels, probabilities) == pytest.approx(probabilities.sum() / labels.sum(), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_equal_to_scikit_learn(seed: int) -> None:
    _, labels, probabilities = stream(3000, seed=seed)
    weights = 1 / np.random.default_rng(seed).choice([1, 0.5, 0.03], 3000)
    found = summary(labels, probabilities, weights)
    by = {"sample_weight": weights}
    assert found["auc"] == pytest.approx(roc_auc_score(labels, probabilities, **by), rel=1e-12)
    assert found["logloss"] == pytest.approx(log_loss(labels, probabilities, **by), rel=1e-12)
    mean = np.average(labels, weights=weights)
    expected = log_loss(labels, probabilities, **by) / log_loss(labels, np.full(3000, mean), **by)
    assert found["normalized_entropy"] == pytest.approx(expected, rel=1e-12)
    assert found["calibration"] == pytest.approx((weights * probabilities).sum() / (weights * labels).sum(), rel=1e-12)
    assert (found["label_mean"], found["num_examples"]) == (pytest.approx(mean, rel=1e-12), 3000)
    assert auc(labels, probabilities, weights) == found["auc"]
    assert logloss(labels, probabilities, weights) == found["logloss"]
    assert calibration(labels, probabilities, weights) == found["calibration"]
    assert normalized_entropy(labels, probabilities, weights) == found["normalized_entropy"]


@pytest.mark.parametrize("seed", [0, 1])
def test_grouped_auc_is_the_mean_of_the_groups_by_their_weight(seed: int) -> None:
    draw = np.random.default_rng(seed)
    groups, labels, scores = draw.integers(-3, 9, 200), draw.integers(0, 2, 200), draw.integers(0, 6, 200)
    labels[groups == 2] = 1  # of one class: left out
    weights = draw.uniform(0.5, 2, 200)
    for by in (np.ones(200), weights):
        found, total = 0.0, 0.0
        for group in set(groups.tolist()) - {2}:
            own = groups == group
            found += by[own].sum() * roc_auc_score(labels[own], scores[own], sample_weight=by[own])
            total += by[own].sum()
        assert grouped_auc(labels, scores, groups, by) == pytest.approx(found / total, rel=1e-12)
    assert math.isnan(grouped_auc([1, 1, 0], [0.1, 0.2, 0.3], [7, 7, 8]))
    assert math.isnan(grouped_auc([], [], []))


def test_a_whole_weight_is_that_many_examples() -> None:
    _, labels, probabilities = stream(400)
    weights = np.random.default_rng(1).integers(1, 5, 400)
    repeated = summary(np.repeat(labels, weights), np.repeat(probabilities, weights))
    weighted = summary(labels, probabilities, weights)
    for name in ("label_mean", "auc", "logloss", "calibration", "normalized_entropy"):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-12), name


def test_a_sampled_stream_has_the_metrics_of_the_whole() -> None:
    _, labels, probabilities = stream(300_000)
    rates = np.where(labels == 0, 0.1, np.where(probabilities > 0.6, 0.3, 0.9))  # unlike positives, unlike rates
    kept = np.random.default_rng(2).random(300_000) < rates
    whole = summary(labels, probabilities)
    sampled = summary(labels[kept], probabilities[kept], 1 / rates[kept])
    unweighted = summary(labels[kept], probabilities[kept])
    for name in ("label_mean", "auc", "logloss", "calibration", "normalized_entropy"):
        assert sampled[name] == pytest.approx(whole[name], rel=0.02), name
        assert unweighted[name] != pytest.approx(whole[name], rel=0.02), name


def test_weights_are_kept_by_chunk() -> None:
    times, labels, probabilities = stream(1000)
    weights = 1 / np.random.default_rng(3).choice([1, 0.25], 1000)
    metrics = ProgressiveMetrics()
    for part in (slice(0, 300), slice(300, 1000)):
        metrics.add(time_ms=times[part], labels=labels[part], probabilities=probabilities[part], weights=weights[part])
    assert metrics.over_last(0.5) == summary(labels[500:], probabilities[500:], weights[500:])
    assert metrics.recent(num=800) == summary(labels[200:], probabilities[200:], weights[200:])
    first = summary(labels[:500], probabilities[:500], weights[:500])
    curve = metrics.windows(num=2)
    assert (curve.auc[0], curve.logloss[0], curve.calibration[0]) == tuple(
        first[name] for name in ("auc", "logloss", "calibration")
    )
    restored = ProgressiveMetrics()
    restored.add(**metrics.columns())
    assert restored.over_last(1.0) == metrics.over_last(1.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"weights of shape \(1,\) for 2 labels"),
        ([1.0, 0.0], "weight 0.0; give 1 / the example's keep rate"),
        ([1.0, float("inf")], "weight inf; give 1 / the example's keep rate"),
        ([-2.0, float("nan")], "weight -2.0; give 1 / the example's keep rate"),
    ],
)
def test_bad_weights(weights: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        summary([0, 1], [0.5, 0.5], weights)
    with pytest.raises(DataError, match=message):
        ProgressiveMetrics().add(time_ms=[0, 0], labels=[0, 1], probabilities=[0.5, 0.5], weights=weights)


def test_auc_depends_on_order_alone_and_turns_over() -> None:
    _, labels, scores = stream(500)
    assert auc(labels, np.exp(7 * scores)) == auc(labels, scores)
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-15)
    assert auc([0, 1], [0.3, 0.3]) == 0.5


def test_a_million_examples_take_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.random(10**6) < 0.3, rng.random(10**6)
    start = time.process_time()
    assert auc(labels, scores) == pytest.approx(0.5, abs=0.002)
    assert time.process_time() - start < 1


def test_certain_probabilities_have_finite_logloss() -> None:
    eps = np.finfo(np.float32).eps
    assert logloss([1, 0], [1.0, 0.0]) == pytest.approx(eps, rel=1e-3)
    assert logloss([0], [1.0]) == pytest.approx(-np.log(eps))


def test_one_class_or_nothing_is_nan() -> None:
    for labels in ([], [0, 0], [1, 1]):
        probabilities = [0.5] * len(labels)
        assert math.isnan(auc(labels, probabilities))
        assert math.isnan(normalized_entropy(labels, probabilities))
    assert math.isnan(logloss([], []))
    assert math.isnan(calibration([0, 0], [0.5, 0.5]))
    assert calibration([1, 1], [0.5, 0.5]) == 0.5


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 2], [0.1, 0.2], "label 2; labels are 0 or 1"),
        ([0, float("nan")], [0.1, 0.2], "label nan; labels are 0 or 1"),
        ([0, 1], [0.1, float("nan")], "score nan; the model diverged"),
        ([0, 1], [0.1, 1.5], "probability 1.5; give the sigmoid"),
        ([0, 1], [0.1], r"labels of shape \(2,\) and scores of shape \(1,\)"),
        ([[0], [1]], [[0.1], [0.2]], r"labels of shape \(2, 1\)"),
    ],
)
def test_bad_input(labels: list, probabilities: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        summary(labels, probabilities)
    with pytest.raises(DataError, match=message):
        ProgressiveMetrics().add(time_ms=[0] * len(labels), labels=labels, probabilities=probabilities)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_halves_do_not_depend_on_the_chunks(chunk: int) -> None:
    _, labels, probabilities = stream(1000)
    metrics = added(1000, chunk=chunk)
    assert metrics.num_examples == 1000
    assert metrics.over_last(0.5) == summary(labels[500:], probabilities[500:])
    assert metrics.over_last(1.0) == summary(labels, probabilities)
    assert metrics.recent(num=123) == summary(labels[-123:], probabilities[-123:])
    assert metrics.recent(num=9999) == summary(labels, probabilities)


def test_summary_holds_every_metric() -> None:
    _, labels, probabilities = stream(200)
    assert summary(labels, probabilities) == {
        "num_examples": 200,
        "label_mean": labels.mean(),
        "auc": auc(labels, probabilities),
        "logloss": logloss(labels, probabilities),
        "calibration": calibration(labels, probabilities),
        "normalized_entropy": normalized_entropy(labels, probabilities),
    }


def test_windows_are_consecutive_slices() -> None:
    times, labels, probabilities = stream(103)
    curve = added(103, chunk=10).windows(num=4)
    edges = [0, 25, 51, 77, 103]
    assert curve.num_examples == edges[1:]
    assert curve.time_ms == [times[edge - 1] for edge in edges[1:]]
    parts = [slice(*pair) for pair in itertools.pairwise(edges)]
    assert curve.auc == [auc(labels[part], probabilities[part]) for part in parts]
    assert curve.logloss == [logloss(labels[part], probabilities[part]) for part in parts]
    assert curve.calibration == [calibration(labels[part], probabilities[part]) for part in parts]


def test_more_windows_than_examples_and_none_at_all() -> None:
    assert added(3, chunk=3).windows(num=10).num_examples == [1, 2, 3]
    assert ProgressiveMetrics().windows(num=10).auc == []
    assert ProgressiveMetrics().recent()["num_examples"] == 0
    assert math.isnan(ProgressiveMetrics().over_last()["auc"])


def test_columns_restore_everything() -> None:
    metrics = ProgressiveMetrics()
    metrics.add(time_ms=[5, 6], labels=[0, 1], probabilities=[0.2, 0.7], request_ids=["a", "b"])
    metrics.add(time_ms=[7], labels=[1], probabilities=[0.1], request_ids=["c"])
    columns = metrics.columns()
    assert columns["request_ids"] == ["a", "b", "c"]
    assert columns["time_ms"].tolist() == [5, 6, 7]
    restored = ProgressiveMetrics()
    restored.add(**columns)
    assert restored.over_last(1.0) == metrics.over_last(1.0)
    assert restored.columns()["request_ids"] == ["a", "b", "c"]


def test_later_changes_of_the_callers_arrays_do_not_matter() -> None:
    times, labels, probabilities = stream(50)
    metrics = ProgressiveMetrics()
    metrics.add(time_ms=times, labels=labels.astype(bool), probabilities=probabilities)
    before = metrics.over_last()
    probabilities[:], times[:] = 0.5, 0
    assert metrics.over_last() == before
    assert metrics.columns()["time_ms"][-1] == 49_000


def test_lengths_and_request_ids_must_agree() -> None:
    metrics = ProgressiveMetrics()
    with pytest.raises(DataError, match="1 labels, 2 times, no request ids"):
        metrics.add(time_ms=[0, 1], labels=[0], probabilities=[0.5])
    metrics.add(time_ms=[0], labels=[0], probabilities=[0.5])
    with pytest.raises(DataError, match="request ids for some of 2 examples; give all or none"):
        metrics.add(time_ms=[0], labels=[0], probabilities=[0.5], request_ids=["a"])
    assert metrics.num_examples == 1
