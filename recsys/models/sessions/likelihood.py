"""Decay and component weights by maximum likelihood: what a user repeats is a choice among all that they know.

A conditional logit (McFadden 1974): a repeat in a session is chosen with probability ∝ exp(w₁·BL + w₂·log(1 + cooc) +
w₃·PM) out of the user's history, without what the session has had already. BL = log S under the decay; cooc counts the
user's earlier sessions that hold the track with those of the session before, PM is the sum of products with their
vectors. These are the weights of the *choice*, not the strengths that a trained PISA has. The slope of repeat gaps on a
log-log scale, which is sometimes used instead, is blind to the decay of such choices.

Parameters stand in the order (decay, base_level, spreading, partial_matching).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError
from recsys.fields import AtLeast
from recsys.models.sessions.likelihood_kernels import choices_of_user, odds
from recsys.sessions.log import TRAIN, Int64s, SessionLog

Parameter = Literal["decay", "base_level", "spreading", "partial_matching"]
PARAMETERS: tuple[Parameter, ...] = ("decay", "base_level", "spreading", "partial_matching")
Floats64 = npt.NDArray[np.float64]
_MOST_STEPS, _NEAR_ENOUGH = 50, 1e-6


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The parameters of what is repeated."""

    decay: Annotated[float, AtLeast(0)] = 0.5
    base_level: float = 1.0
    spreading: float = 0.0
    partial_matching: float = 0.0

    @property
    def values(self) -> Floats64:
        """In the order of PARAMETERS."""
        return np.array([getattr(self, name) for name in PARAMETERS])


@dataclass(frozen=True)
class Fitted:
    """What is most likely, with standard errors of what was fitted, out of so many repeats."""

    choice: Choice
    errors: dict[str, float]
    log_likelihood: float
    num_choices: int
    history: list[float] = field(default_factory=list)  # the log-likelihood by step


def fit_choice(
    log: SessionLog,
    *,
    free: Sequence[Parameter] = ("decay",),
    start: Choice | None = None,
    vectors_VD: Floats64 | None = None,
    min_age_seconds: float = 1.0,
) -> Fitted:
    """Fit the ``free`` parameters to the repeats of the training sessions by Fisher scoring; the others stay.

    PM needs ``vectors_VD``. Raises DataError without a repeat, and where the repeats do not tell a parameter.
    """
    if not free or any(name not in PARAMETERS for name in free):
        raise ConfigError(f"free={list(free)}: name some of {', '.join(PARAMETERS)}")
    if vectors_VD is None and "partial_matching" in free:
        raise ConfigError("partial_matching can not be fitted without vectors of the tracks; give vectors_VD")
    chosen = np.array([PARAMETERS.index(name) for name in free])
    values = (start or Choice()).values
    vectors_VD = np.zeros((log.num_tracks, 1)) if vectors_VD is None else vectors_VD
    found = _likelihood(log, values, vectors_VD, min_age_seconds)
    if found.num_choices == 0:
        raise DataError("no training session repeats anything, so there is no memory to fit; see plays.rules.split")
    history = [found.value]
    for _ in range(_MOST_STEPS):
        step = _solved(found.information[np.ix_(chosen, chosen)], found.gradient[chosen], free)
        values, found = _improved(log, values, found, chosen, step, vectors_VD, min_age_seconds)
        history.append(found.value)
        if history[-1] - history[-2] < _NEAR_ENOUGH:
            break
    covariance = np.linalg.inv(found.information[np.ix_(chosen, chosen)])
    errors = dict(zip(free, np.sqrt(np.diag(covariance)).tolist(), strict=True))
    choice = Choice(**dict(zip(PARAMETERS, values.tolist(), strict=True)))
    return Fitted(choice, errors, found.value, found.num_choices, history)


def choice_odds(
    log: SessionLog, ends_Q: Int64s, choice: Choice, *, vectors_VD: Floats64 | None = None, min_age_seconds: float = 1.0
) -> Floats64:
    """exp(w·x) of every track as some sessions open, (Q, V); 0 for what their users had not heard before."""
    asked = log.begins_S[ends_Q], ends_Q, log.times_S[ends_Q]
    return choice_odds_between(log, *asked, choice, min_age_seconds, vectors_VD)


def choice_odds_between(
    log: SessionLog,
    begins_Q: Int64s,
    ends_Q: Int64s,
    times_Q: Int64s,
    choice: Choice,
    min_age_seconds: float = 1.0,
    vectors_VD: Floats64 | None = None,
) -> Floats64:
    """The same of any histories at any times."""
    vectors_VD = np.zeros((log.num_tracks, 1)) if vectors_VD is None else vectors_VD
    found_QV = np.zeros((len(ends_Q), log.num_tracks))
    odds(begins_Q, ends_Q, times_Q, log.times_S, log.tracks_SK, choice.values, min_age_seconds, vectors_VD, found_QV)
    return found_QV


@dataclass(frozen=True)
class _Likelihood:
    value: float
    gradient: Floats64
    information: Floats64
    num_choices: int


def _likelihood(log: SessionLog, values: Floats64, vectors_VD: Floats64, min_age_seconds: float) -> _Likelihood:
    gradient, information, total = np.zeros(4), np.zeros((4, 4)), np.zeros(2)
    for begin, end in zip(log.first_U1[:-1], log.first_U1[1:], strict=True):
        stop = begin + int((log.parts_S[begin:end] == TRAIN).sum())
        choices_of_user(
            log.times_S[begin:stop], log.tracks_SK[begin:stop], values, min_age_seconds, vectors_VD, gradient,
            information, total,
        )  # fmt: skip
    return _Likelihood(float(total[0]), gradient, information, int(total[1]))


def _solved(information: Floats64, gradient: Floats64, free: Sequence[Parameter]) -> Floats64:
    if np.linalg.matrix_rank(information) < len(free):
        raise DataError(f"the repeats do not tell {', '.join(free)} apart; fit fewer of them, or give more sessions")
    return np.linalg.solve(information, gradient).astype(np.float64)


def _improved(
    log: SessionLog,
    values: Floats64,
    found: _Likelihood,
    chosen: Int64s,
    step: Floats64,
    vectors_VD: Floats64,
    min_age_seconds: float,
) -> tuple[Floats64, _Likelihood]:
    """The step, halved until it helps; no step where it never does."""
    for halving in range(20):
        tried = values.copy()
        tried[chosen] += step * 0.5**halving
        tried[0] = max(tried[0], 0.0)
        better = _likelihood(log, tried, vectors_VD, min_age_seconds)
        if better.value >= found.value:
            return tried, better
    return values, found
