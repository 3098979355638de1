"""Metrics of click probabilities, and their course over a stream where the model predicts, then learns.

Each metric takes ``weights``, all 1 where left out: what sampling kept with probability p stands for 1 / p examples.
The AUC too: it does not ask which share of the negatives was kept, but it does which of the positives.

Shape suffixes: N examples, G groups of equal score.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# float32 sigmoids reach exactly 0 and 1; the logarithm stops here, as in scikit-learn for float32 input.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Probability that a random positive scores above a random negative, ties counted half; exact.

    The Mann-Whitney statistic from one sort: each positive beats the negatives that score lower, and half of
    those that score the same. With no positive or no negative there is no pair to compare, and it is nan.
    Raises DataError for labels other than 0 and 1, scores that are not finite, weights that are not above 0, or
    different lengths.

    >>> auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    labels_N, scores_N = _checked(labels, scores)
    return _auc(labels_N, scores_N, _checked_weights(weights, len(labels_N)))


def grouped_auc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """The AUC within each group, averaged by the groups' weight (their examples); gAUC (Zhu et al. 2017, section 4.2).

    Groups of one class have no AUC and are left out; where that is all of them it is nan.

    >>> grouped_auc([0, 1, 0, 1, 1], [0.1, 0.2, 0.9, 0.8, 0.5], groups=[7, 7, 8, 8, 9])
    0.5
    """
    labels_N, scores_N = _checked(labels, scores)
    weights_N, groups_N = _checked_weights(weights, len(labels_N)), np.asarray(groups)
    if groups_N.shape != labels_N.shape:
        raise DataError(f"groups of shape {groups_N.shape} for {len(labels_N)} labels; give one per example")
    order_N = np.argsort(groups_N, kind="stable")
    starts = np.flatnonzero(np.diff(groups_N[order_N], prepend=groups_N[order_N][:1] - 1))
    found = np.array(
        [(_auc(labels_N[p], scores_N[p], weights_N[p]), weights_N[p].sum()) for p in np.split(order_N, starts[1:])]
    )
    has_both = ~np.isnan(found[:, 0])
    return float(np.average(found[has_both, 0], weights=found[has_both, 1])) if has_both.any() else math.nan


def logloss(labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Mean binary cross-entropy in nats; probabilities are kept 1.2e-7 away from 0 and 1. No examples: nan.

    >>> round(logloss([0, 1], [0.5, 0.5]), 6)  # ln 2
    0.693147
    """
    labels_N, probabilities_N = _checked_probabilities(labels, probabilities)
    return _logloss(labels_N, probabilities_N, _checked_weights(weights, len(labels_N)))


def calibration(labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Mean predicted probability over mean label: 1 is right, 2 promises twice the clicks. No positive: nan.

    >>> calibration([0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5])
    2.0
    """
    labels_N, probabilities_N = _checked_probabilities(labels, probabilities)
    return _calibration(labels_N, probabilities_N, _checked_weights(weights, len(labels_N)))


def normalized_entropy(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Logloss over that of predicting these labels' mean (He et al. 2014); below 1 beats it. One class: nan.

    >>> normalized_entropy([0, 1], [0.5, 0.5])
    1.0
    """
    labels_N, probabilities_N = _checked_probabilities(labels, probabilities)
    return _normalized_entropy(labels_N, probabilities_N, _checked_weights(weights, len(labels_N)))


def summary(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> dict[str, float]:
    """All of the above, with ``num_examples`` (a plain count) and ``label_mean``, by name."""
    labels_N, probabilities_N = _checked_probabilities(labels, probabilities)
    weights_N = _checked_weights(weights, len(labels_N))
    return {
        "num_examples": len(labels_N),
        "label_mean": float(np.average(labels_N, weights=weights_N)) if len(labels_N) else math.nan,
        "auc": _auc(labels_N, probabilities_N, weights_N),
        "logloss": _logloss(labels_N, probabilities_N, weights_N),
        "calibration": _calibration(labels_N, probabilities_N, weights_N),
        "normalized_entropy": _normalized_entropy(labels_N, probabilities_N, weights_N),
    }


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Metrics window by window, as columns of equal length: one entry per window, in stream order."""

    num_examples: list[int]  # seen up to and with this window
    time_ms: list[int]  # event time of the window's last example
    auc: list[float]
    logloss: list[float]
    normalized_entropy: list[float]
    calibration: list[float]

    def at(self, num_examples: list[int]) -> "Curve":
        """The same windows, their ends counted in another stream's examples."""
        return replace(self, num_examples=num_examples)


class ProgressiveMetrics:
    """Collects predictions made before their example was learned: each one tests, then trains (prequential).

    Add every chunk once and in the order in which it is learned; halves and windows count in that order.
    Keeps 25 bytes per example, and request ids where given. ``columns`` holds all of it, and
    ``add(**columns())`` on a new object restores it.

    >>> metrics = ProgressiveMetrics()
    >>> metrics.add(time_ms=[0, 1000], labels=[0, 1], probabilities=[0.5, 0.5])
    >>> metrics.add(time_ms=[2000, 3000], labels=[0, 1], probabilities=[0.2, 0.6])
    >>> metrics.over_last(fraction=0.5)["auc"]
    1.0
    >>> metrics.windows(num=2).auc
    [0.5, 1.0]
    """

    def __init__(self) -> None:
        self.num_examples = 0
        self._times: list[npt.NDArray[np.int64]] = []
        self._labels: list[Bools] = []
        self._probabilities: list[Floats] = []
        self._weights: list[Floats] = []
        self._request_ids: list[str] = []

    def add(
        self,
        *,
        time_ms: npt.ArrayLike,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        request_ids: Sequence[str] | None = None,
    ) -> None:
        """Append a chunk of examples: event times in ms, labels 0 or 1, probabilities, weights; ids always or never.

        Raises DataError where lengths differ, a label is not 0 or 1, or a probability is not within 0..1.
        """
        labels_N, probabilities_N = _checked_probabilities(labels, probabilities)
        weights_N = _checked_weights(weights, len(labels_N))
        times_N = np.array(time_ms, dtype=np.int64)
        if len(times_N) != len(labels_N) or (request_ids is not None and len(request_ids) != len(labels_N)):
            num_ids = "no" if request_ids is None else len(request_ids)
            message = f"{len(labels_N)} labels, {len(times_N)} times, {num_ids} request ids; give one per example"
            raise DataError(message)
        if len(self._request_ids) + len(request_ids or ()) not in (0, self.num_examples + len(labels_N)):
            message = f"request ids for some of {self.num_examples + len(labels_N)} examples; give all or none"
            raise DataError(message)
        self._times.append(times_N)
        self._labels.append(labels_N)
        self._probabilities.append(probabilities_N)
        self._weights.append(weights_N)
        self._request_ids.extend(request_ids or ())
        self.num_examples += len(labels_N)

    def columns(self) -> dict[str, npt.NDArray[np.generic] | list[str]]:
        """Everything added, in order, under the names of ``add``; ``request_ids`` only where given."""
        columns: dict[str, npt.NDArray[np.generic] | list[str]] = {
            "time_ms": _joined(self._times, np.int64),
            "labels": _joined(self._labels, np.bool_),
            "probabilities": _joined(self._probabilities, np.float64),
            "weights": _joined(self._weights, np.float64),
        }
        return {**columns, "request_ids": list(self._request_ids)} if self._request_ids else columns

    def windows(self, num: int) -> Curve:
        """Metrics of ``num`` consecutive windows, sizes one apart at most; fewer where examples are fewer."""
        labels_N = _joined(self._labels, np.bool_)
        probabilities_N = _joined(self._probabilities, np.float64)
        weights_N = _joined(self._weights, np.float64)
        times_N = _joined(self._times, np.int64)
        num_windows = min(num, self.num_examples)
        edges = [window * self.num_examples // max(num_windows, 1) for window in range(num_windows + 1)]
        slices = [slice(start, end) for start, end in itertools.pairwise(edges)]
        return Curve(
            num_examples=edges[1:],
            time_ms=[int(times_N[part][-1]) for part in slices],
            auc=[_auc(labels_N[part], probabilities_N[part], weights_N[part]) for part in slices],
            logloss=[_logloss(labels_N[part], probabilities_N[part], weights_N[part]) for part in slices],
            normalized_entropy=[
                _normalized_entropy(labels_N[part], probabilities_N[part], weights_N[part]) for part in slices
            ],
            calibration=[_calibration(labels_N[part], probabilities_N[part], weights_N[part]) for part in slices],
        )

    def over_last(self, fraction: float = 0.5) -> dict[str, float]:
        """``summary`` of the last ``fraction`` of the examples, rounded up: what the stream ended with."""
        return self.recent(num=math.ceil(self.num_examples * fraction))

    def recent(self, num: int = 5000) -> dict[str, float]:
        """``summary`` of the last ``num`` examples, for a live display; its cost does not grow with time."""
        num = min(num, self.num_examples)
        first, num_found = len(self._labels), 0
        while num_found < num:
            first -= 1
            num_found += len(self._labels[first])
        labels_N = _joined(self._labels[first:], np.bool_)
        probabilities_N = _joined(self._probabilities[first:], np.float64)
        weights_N = _joined(self._weights[first:], np.float64)
        skipped = num_found - num
        return summary(labels_N[skipped:], probabilities_N[skipped:], weights_N[skipped:])


def _auc(labels_N: Bools, scores_N: Floats, weights_N: Floats) -> float:
    if labels_N.all() or not labels_N.any():
        return math.nan
    order_N = np.argsort(scores_N)
    sorted_N = scores_N[order_N]
    starts_G = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]]))
    positives_G = np.add.reduceat(np.where(labels_N, weights_N, 0)[order_N], starts_G)
    negatives_G = np.add.reduceat(np.where(labels_N, 0, weights_N)[order_N], starts_G)
    negatives_below_G = np.cumsum(negatives_G) - negatives_G
    # In halves, so that the sum is a whole number where weights are: a win counts 2, a tie 1.
    halves = (positives_G * (2 * negatives_below_G + negatives_G)).sum()
    return float(halves / (2 * positives_G.sum() * negatives_G.sum()))


def _logloss(labels_N: Bools, probabilities_N: Floats, weights_N: Floats) -> float:
    if len(labels_N) == 0:
        return math.nan
    of_label_N = np.where(labels_N, probabilities_N, 1 - probabilities_N)
    losses_N = -np.log(np.clip(of_label_N, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    return float(np.average(losses_N, weights=weights_N))


def _calibration(labels_N: Bools, probabilities_N: Floats, weights_N: Floats) -> float:
    if not labels_N.any():
        return math.nan
    return float(np.average(probabilities_N, weights=weights_N) / np.average(labels_N, weights=weights_N))


def _normalized_entropy(labels_N: Bools, probabilities_N: Floats, weights_N: Floats) -> float:
    if labels_N.all() or not labels_N.any():
        return math.nan
    mean = float(np.average(labels_N, weights=weights_N))
    entropy = -(mean * math.log(mean) + (1 - mean) * math.log(1 - mean))
    return _logloss(labels_N, probabilities_N, weights_N) / entropy


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Bools, Floats]:
    """Labels as bool and scores as float64, copies of one length; DataError for what can not be scored."""
    raw_N, scores_N = np.asarray(labels), np.array(scores, dtype=np.float64)
    if raw_N.ndim != 1 or raw_N.shape != scores_N.shape:
        message = f"labels of shape {raw_N.shape} and scores of shape {scores_N.shape}; give one each per example"
        raise DataError(message)
    labels_N = raw_N.astype(np.bool_)
    if not np.array_equal(labels_N, raw_N):
        message = f"label {raw_N[labels_N != raw_N][0]}; labels are 0 or 1"
        raise DataError(message)
    if not np.isfinite(scores_N).all():
        message = f"score {scores_N[~np.isfinite(scores_N)][0]}; the model diverged, lower the learning rate"
        raise DataError(message)
    return labels_N, scores_N


def _checked_probabilities(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[Bools, Floats]:
    labels_N, probabilities_N = _checked(labels, probabilities)
    outside_N = (probabilities_N < 0) | (probabilities_N > 1)
    if outside_N.any():
        message = f"probability {probabilities_N[outside_N][0]}; give the sigmoid of the logits, within 0..1"
        raise DataError(message)
    return labels_N, probabilities_N


def _checked_weights(weights: npt.ArrayLike | None, num: int) -> Floats:
    if weights is None:
        return np.ones(num)
    weights_N = np.array(weights, dtype=np.float64)
    if weights_N.shape != (num,):
        raise DataError(f"weights of shape {weights_N.shape} for {num} labels; give one per example")
    wrong_N = ~(np.isfinite(weights_N) & (weights_N > 0))
    if wrong_N.any():
        raise DataError(f"weight {weights_N[wrong_N][0]}; give 1 / the example's keep rate, above 0")
    return weights_N


def _joined(chunks: list, dtype: type) -> npt.NDArray:
    return np.concatenate(chunks) if chunks else np.empty(0, dtype=dtype)
