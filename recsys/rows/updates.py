"""Apply an optimizer to distinct rows: one numba kernel for each kind.

A row's optimizer state is one row of a float32 array: its columns side by side, as ``Optimizer.state_widths`` names
them. A kernel takes (settings, rate, step, values, state, slots, gradients). Arithmetic is float32, as torch's, but for
what torch computes in float64: 1 - beta and bias corrections. ``error_model="numpy"``: a division that checks for zero
keeps its loop from being vectorised, which makes a kernel three times as slow.

Shape suffixes: U distinct rows, W row width, S state width, T steps.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.hashing import Floats
from recsys.rows import decay
from recsys.rows.intrinsics import prefetch
from recsys.rows.optimizers import Optimizer

Int64s = npt.NDArray[np.int64]
Uint32s = npt.NDArray[np.uint32]
Settings = npt.NDArray[np.float64]

_AHEAD = 16  # rows that are asked for before their turn


class Update:
    """An optimizer at work on the rows of one group. Steps are the group's own, from 1 on.

    ``lazy``: untouched rows miss something, and have to ``catch_up`` before they are updated or read.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._kernel = _KERNELS[optimizer.kind]
        self._settings = np.array(optimizer.settings(), np.float64)
        self._rates = decay.Rates(optimizer.learning_rate, optimizer.schedule, optimizer.weight_decay)
        self._optimizer = optimizer
        self.lazy = optimizer.lazy != "never"

    def prepare(self, step: int) -> None:
        """Know the learning rates up to ``step``; before threads ask for them."""
        self._rates.extend(step)

    def apply(self, values: Floats, state: Floats, slots_U: Int64s, gradients_UW: Floats, step: int) -> None:
        """One step of distinct rows, which lack nothing before it."""
        self._kernel(self._settings, self._rates.at(step), step, values, state, slots_U, gradients_UW)

    def catch_up(self, values: Floats, state: Floats, slots_U: Int64s, steps: Uint32s, up_to: int) -> None:
        """Bring distinct rows from the end of their last step, ``steps`` by slot, to the end of step ``up_to``."""
        if self._optimizer.lazy == "scale":
            decay.scale(self._rates.logarithms, values, slots_U, steps, up_to)
        elif self._optimizer.lazy == "replay":
            replay = decay.REPLAYS[self._optimizer.kind]
            replay(
                self._settings, self._rates.rates, self._optimizer.replay_steps, values, state, slots_U, steps, up_to
            )

    @property
    def nbytes(self) -> int:
        """Bytes of learning rates held."""
        return self._rates.nbytes


@njit(cache=True, nogil=True, error_model="numpy")
def sgd(
    settings: Settings, rate: float, step: int, values: Floats, state: Floats, slots_U: Int64s, gradients_UW: Floats
) -> None:
    """row -= rate * gradient."""
    decay_, lr = np.float32(settings[0]), np.float32(rate)
    flat = values.reshape(-1)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * values.shape[1])
            prefetch(flat, (slots_U[i + _AHEAD] + 1) * values.shape[1] - 1)
        slot = slots_U[i]
        for j in range(values.shape[1]):
            values[slot, j] -= lr * (gradients_UW[i, j] + decay_ * values[slot, j])


@njit(cache=True, nogil=True, error_model="numpy")
def momentum(
    settings: Settings, rate: float, step: int, values: Floats, state: Floats, slots_U: Int64s, gradients_UW: Floats
) -> None:
    """velocity = momentum * velocity + gradient; row -= rate * velocity."""
    decay_, kept, lr = np.float32(settings[0]), np.float32(settings[1]), np.float32(rate)
    flat, flat_state = values.reshape(-1), state.reshape(-1)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * values.shape[1])
            prefetch(flat, (slots_U[i + _AHEAD] + 1) * values.shape[1] - 1)
            prefetch(flat_state, slots_U[i + _AHEAD] * state.shape[1])
            prefetch(flat_state, (slots_U[i + _AHEAD] + 1) * state.shape[1] - 1)
        slot = slots_U[i]
        for j in range(values.shape[1]):
            state[slot, j] = kept * state[slot, j] + (gradients_UW[i, j] + decay_ * values[slot, j])
            values[slot, j] -= lr * state[slot, j]


@njit(cache=True, nogil=True, error_model="numpy")
def adagrad(
    settings: Settings, rate: float, step: int, values: Floats, state: Floats, slots_U: Int64s, gradients_UW: Floats
) -> None:
    """sum += gradient²; row -= rate * gradient / (√sum + eps)."""
    decay_, eps, lr = np.float32(settings[0]), np.float32(settings[1]), np.float32(rate)
    flat, flat_state = values.reshape(-1), state.reshape(-1)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * values.shape[1])
            prefetch(flat, (slots_U[i + _AHEAD] + 1) * values.shape[1] - 1)
            prefetch(flat_state, slots_U[i + _AHEAD] * state.shape[1])
            prefetch(flat_state, (slots_U[i + _AHEAD] + 1) * state.shape[1] - 1)
        slot = slots_U[i]
        for j in range(values.shape[1]):
            gradient = gradients_UW[i, j] + decay_ * values[slot, j]
            state[slot, j] += gradient * gradient
            values[slot, j] -= lr * gradient / (np.sqrt(state[slot, j]) + eps)


# The sum of squares in any order: in the given one it could not be vectorised.
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})
def rowwise_adagrad(
    settings: Settings, rate: float, step: int, values: Floats, state: Floats, slots_U: Int64s, gradients_UW: Floats
) -> None:
    """sum += mean of gradient²; row -= rate * gradient / (√sum + eps)."""
    decay_, eps, width = np.float32(settings[0]), np.float32(settings[1]), np.float32(values.shape[1])
    flat, flat_state = values.reshape(-1), state.reshape(-1)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * values.shape[1])
            prefetch(flat, (slots_U[i + _AHEAD] + 1) * values.shape[1] - 1)
            prefetch(flat_state, slots_U[i + _AHEAD] * state.shape[1])
        slot = slots_U[i]
        squares = np.float32(0)
        for j in range(values.shape[1]):
            gradient = gradients_UW[i, j] + decay_ * values[slot, j]
            squares += gradient * gradient
        state[slot, 0] += squares / width
        factor = np.float32(rate) / (np.sqrt(state[slot, 0]) + eps)
        for j in range(values.shape[1]):
            values[slot, j] -= factor * (gradients_UW[i, j] + decay_ * values[slot, j])


@njit(cache=True, nogil=True, error_model="numpy")
def adam(
    settings: Settings, rate: float, step: int, values: Floats, state: Floats, slots_U: Int64s, gradients_UW: Floats
) -> None:
    """Moments with bias correction; decay is added to the gradient, or taken of the row before."""
    beta1, beta2, eps, decoupled, by_group = settings[1], settings[2], np.float32(settings[3]), settings[4], settings[5]
    new1, kept2, new2 = np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
    kept = np.float32(1 - rate * settings[0]) if decoupled else np.float32(1)
    decay_ = np.float32(0) if decoupled else np.float32(settings[0])
    log1, log2 = np.log(beta1), np.log(beta2)
    step_size = np.float32(rate / (1 - beta1**step))
    root = np.float32(np.sqrt(1 - beta2**step))
    width = np.uint64(values.shape[1])  # an index that can not be negative lets the loop be vectorised
    flat, flat_state = values.reshape(-1), state.reshape(-1)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * values.shape[1])
            prefetch(flat, (slots_U[i + _AHEAD] + 1) * values.shape[1] - 1)
            prefetch(flat_state, slots_U[i + _AHEAD] * state.shape[1])
            prefetch(flat_state, slots_U[i + _AHEAD] * state.shape[1] + values.shape[1])
            prefetch(flat_state, (slots_U[i + _AHEAD] + 1) * state.shape[1] - 1)
        slot = slots_U[i]
        if not by_group:
            state[slot, -1] += np.float32(1)
            steps = np.float64(state[slot, -1])
            step_size = np.float32(rate / (1 - np.exp(steps * log1)))
            root = np.float32(np.sqrt(1 - np.exp(steps * log2)))
        for j in range(width):
            gradient = gradients_UW[i, j] + decay_ * values[slot, j]
            state[slot, j] += new1 * (gradient - state[slot, j])
            state[slot, width + j] = kept2 * state[slot, width + j] + new2 * gradient * gradient
            moved = step_size * state[slot, j] / (np.sqrt(state[slot, width + j]) / root + eps)
            values[slot, j] = kept * values[slot, j] - moved


@njit(cache=True, nogil=True, error_model="numpy")
def ftrl(
    settings: Settings, rate: float, step: int, values: Floats, state: Floats, slots_U: Int64s, gradients_UW: Floats
) -> None:
    """McMahan et al. 2013, Algorithm 1."""
    alpha, beta = np.float32(rate), np.float32(settings[0])
    l1, l2 = np.float32(settings[1]), np.float32(settings[2])
    width = np.uint64(values.shape[1])  # an index that can not be negative lets the loop be vectorised
    flat, flat_state = values.reshape(-1), state.reshape(-1)
    for i in range(len(slots_U)):
        if i + _AHEAD < len(slots_U):
            prefetch(flat, slots_U[i + _AHEAD] * values.shape[1])
            prefetch(flat, (slots_U[i + _AHEAD] + 1) * values.shape[1] - 1)
            prefetch(flat_state, slots_U[i + _AHEAD] * state.shape[1])
            prefetch(flat_state, slots_U[i + _AHEAD] * state.shape[1] + values.shape[1])
            prefetch(flat_state, (slots_U[i + _AHEAD] + 1) * state.shape[1] - 1)
        slot = slots_U[i]
        for j in range(width):
            gradient, n = gradients_UW[i, j], state[slot, width + j]
            new_n = n + gradient * gradient
            z = state[slot, j] + gradient - (np.sqrt(new_n) - np.sqrt(n)) / alpha * values[slot, j]
            state[slot, j], state[slot, width + j] = z, new_n
            towards = np.float32(max(abs(z) - l1, np.float32(0)))
            weight = towards / ((beta + np.sqrt(new_n)) / alpha + l2)
            values[slot, j] = weight if z < 0 else -weight


_KERNELS: dict[str, Any] = {
    "sgd": sgd,
    "momentum": momentum,
    "adagrad": adagrad,
    "rowwise_adagrad": rowwise_adagrad,
    "adam": adam,
    "adamw": adam,
    "ftrl": ftrl,
}
