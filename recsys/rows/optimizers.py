"""Optimizers that a row store applies to the rows a push touches.

Each is a frozen value with two methods: ``state_widths`` says what a row carries beside itself, ``update`` changes
rows and state in place. Formulas and defaults are torch's (``torch.optim.SGD/Adagrad/Adam``) and, for row-wise
Adagrad, fbgemm's EXACT_ROWWISE_ADAGRAD; the tests compare them step by step.

Shape suffixes: U unique rows, W row width, S state width (W, or 1 where the row shares one number).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from recsys.fields import Above, AtLeast, Below, build, choose
from recsys.hashing import Floats


class Optimizer(Protocol):
    """What a row group needs of its optimizer."""

    def state_widths(self, width: int) -> dict[str, int]:
        """Name and width of each float32 state column of a row of ``width`` numbers."""

    def initial_state(self, name: str) -> float:
        """The value a fresh row's state starts from."""

    def update(self, rows_UW: Floats, state: Mapping[str, Floats], gradients_UW: Floats) -> None:
        """Apply one step to distinct rows, in place."""


@dataclass(frozen=True, kw_only=True)
class _Rated:
    """What all have."""

    learning_rate: Annotated[float, Above(0)]

    def initial_state(self, name: str) -> float:
        """Zero, unless an optimizer says otherwise."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class SGD(_Rated):
    """row -= learning_rate * gradient."""

    kind: Literal["sgd"] = "sgd"

    def state_widths(self, width: int) -> dict[str, int]:
        """No state."""
        return {}

    def update(self, rows_UW: Floats, state: Mapping[str, Floats], gradients_UW: Floats) -> None:
        """One step, in place."""
        rows_UW -= np.float32(self.learning_rate) * gradients_UW


@dataclass(frozen=True, kw_only=True)
class Adagrad(_Rated):
    """sum += gradient²; row -= learning_rate * gradient / (sqrt(sum) + eps) (Duchi et al. 2011)."""

    kind: Literal["adagrad"] = "adagrad"
    eps: Annotated[float, Above(0)] = 1e-10
    initial_accumulator: Annotated[float, AtLeast(0)] = 0.0

    def state_widths(self, width: int) -> dict[str, int]:
        """One sum per number."""
        return {"sum": width}

    def initial_state(self, name: str) -> float:
        """``initial_accumulator``."""
        return self.initial_accumulator

    def update(self, rows_UW: Floats, state: Mapping[str, Floats], gradients_UW: Floats) -> None:
        """One step, in place."""
        sum_US = state["sum"]
        sum_US += gradients_UW * gradients_UW
        rows_UW -= np.float32(self.learning_rate) * gradients_UW / (np.sqrt(sum_US) + np.float32(self.eps))


@dataclass(frozen=True, kw_only=True)
class RowWiseAdagrad(_Rated):
    """Adagrad with one sum a row, of the mean squared gradient: W times less state."""

    kind: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    eps: Annotated[float, Above(0)] = 1e-8

    def state_widths(self, width: int) -> dict[str, int]:
        """One sum per row."""
        return {"sum": 1}

    def update(self, rows_UW: Floats, state: Mapping[str, Floats], gradients_UW: Floats) -> None:
        """One step, in place."""
        sum_U1 = state["sum"]
        sum_U1 += np.mean(gradients_UW * gradients_UW, axis=1, keepdims=True)
        rows_UW -= np.float32(self.learning_rate) * gradients_UW / (np.sqrt(sum_U1) + np.float32(self.eps))


@dataclass(frozen=True, kw_only=True)
class Adam(_Rated):
    """Adam (Kingma and Ba 2015), its bias correction counted by the row's own steps."""

    kind: Literal["adam"] = "adam"
    beta1: Annotated[float, AtLeast(0), Below(1)] = 0.9
    beta2: Annotated[float, AtLeast(0), Below(1)] = 0.999
    eps: Annotated[float, Above(0)] = 1e-8

    def state_widths(self, width: int) -> dict[str, int]:
        """Two moments per number, one step count per row."""
        return {"mean": width, "variance": width, "step": 1}

    def update(self, rows_UW: Floats, state: Mapping[str, Floats], gradients_UW: Floats) -> None:
        """One step, in place."""
        mean_UW, variance_UW, step_U1 = state["mean"], state["variance"], state["step"]
        # 1 - beta is taken in float64, as torch does: in float32 1 - 0.999 is off by 5e-5 of itself
        step_U1 += 1
        mean_UW += np.float32(1 - self.beta1) * (gradients_UW - mean_UW)
        variance_UW *= np.float32(self.beta2)
        variance_UW += np.float32(1 - self.beta2) * gradients_UW * gradients_UW
        steps_U1 = step_U1.astype(np.float64)
        step_size_U1 = (self.learning_rate / (1 - self.beta1**steps_U1)).astype(np.float32)
        root_U1 = np.sqrt(1 - self.beta2**steps_U1).astype(np.float32)
        rows_UW -= step_size_U1 * mean_UW / (np.sqrt(variance_UW) / root_U1 + np.float32(self.eps))


OPTIMIZERS: dict[str, Any] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "adam": Adam,
}


def build_optimizer(fields: Mapping[str, object], where: str = "optimizer") -> Optimizer:
    """An optimizer from ``{"kind": ..., "learning_rate": ...}``; ConfigError, by the full key, for what can not be.

    >>> build_optimizer({"kind": "sgd", "learning_rate": 0.1})
    SGD(learning_rate=0.1, kind='sgd')
    """
    optimizer: Optimizer = build(OPTIMIZERS[choose(where, fields, OPTIMIZERS)], fields, where)
    return optimizer
