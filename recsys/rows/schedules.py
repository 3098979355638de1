"""Learning rates that change with the step. A factor on ``learning_rate``, as in ``torch.optim.lr_scheduler``.

Shape suffixes: T steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from recsys.fields import Above, AtLeast, Between, build, choose

Steps = npt.NDArray[np.int64]
Factors = npt.NDArray[np.float64]


class Schedule(Protocol):
    """What an optimizer needs of its schedule."""

    def factors(self, steps_T: Steps) -> Factors:
        """The factor of each step; the first step is 1."""


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Rises in equal parts to 1 over ``steps``, and stays there.

    >>> WarmUp(steps=4).factors(np.array([1, 2, 4, 9])).tolist()
    [0.25, 0.5, 1.0, 1.0]
    """

    kind: Literal["warm_up"] = "warm_up"
    steps: Annotated[int, AtLeast(1)]

    def factors(self, steps_T: Steps) -> Factors:
        """See Schedule."""
        return np.minimum(steps_T / self.steps, 1.0)


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """Multiplied by ``gamma`` after every ``steps`` steps (torch's StepLR; with ``steps: 1`` its ExponentialLR).

    >>> Exponential(gamma=0.5, steps=2).factors(np.array([1, 2, 3, 5])).tolist()
    [1.0, 1.0, 0.5, 0.25]
    """

    kind: Literal["exponential"] = "exponential"
    gamma: Annotated[float, Above(0), Between(0, 1)]
    steps: Annotated[int, AtLeast(1)] = 1

    def factors(self, steps_T: Steps) -> Factors:
        """See Schedule."""
        factors_T: Factors = self.gamma ** ((steps_T - 1) // self.steps).astype(np.float64)
        return factors_T


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 to ``least`` over ``steps``, and stays there (Loshchilov and Hutter 2017, without restarts).

    >>> Cosine(steps=2).factors(np.array([1, 2, 3, 8])).round(6).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """

    kind: Literal["cosine"] = "cosine"
    steps: Annotated[int, AtLeast(1)]
    least: Annotated[float, Between(0, 1)] = 0.0

    def factors(self, steps_T: Steps) -> Factors:
        """See Schedule."""
        share_T = np.minimum((steps_T - 1) / self.steps, 1.0)
        factors_T: Factors = self.least + (1 - self.least) * (1 + np.cos(np.pi * share_T)) / 2
        return factors_T


@dataclass(frozen=True, kw_only=True)
class MultiStep:
    """Multiplied by ``gamma`` after each of the steps ``at`` (torch's MultiStepLR); a plateau adds to them as it comes.

    >>> MultiStep(at=(2, 3), gamma=0.5).factors(np.array([1, 2, 3, 4])).tolist()
    [1.0, 1.0, 0.5, 0.25]
    """

    kind: Literal["multi_step"] = "multi_step"
    at: tuple[Annotated[int, AtLeast(0)], ...]
    gamma: Annotated[float, Above(0), Between(0, 1)]

    def factors(self, steps_T: Steps) -> Factors:
        """See Schedule."""
        passed_T = np.searchsorted(np.sort(self.at), steps_T)
        factors_T: Factors = self.gamma ** passed_T.astype(np.float64)
        return factors_T


SCHEDULES: dict[str, Any] = {
    "warm_up": WarmUp,
    "exponential": Exponential,
    "cosine": Cosine,
    "multi_step": MultiStep,
}


def build_schedule(fields: Mapping[str, Any], where: str) -> Schedule:
    """A schedule from ``{"kind": "cosine", "steps": 1000}``; ConfigError for what can not be."""
    schedule: Schedule = build(SCHEDULES[choose(where, fields, SCHEDULES)], fields, where)
    return schedule
