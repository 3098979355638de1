"""What a row missed while nobody touched it, in a run whose weight decay is that of a dense one.

A dense optimizer changes every row at every step: by its decay, and by its momentum where it has some. Here a row
carries the last step it has had and catches up when it is touched or read. Where the missed steps are a product (SGD,
decoupled decay) that is one factor. Elsewhere up to ``replay`` steps are done one by one, without a gradient; further
ones in at most ``replay`` strides of equal length, in each of which the slopes are those of its beginning, and a number
that would cross zero stops there. A stride of h steps is off by no more than a dense run moves in it: for Adam about
h * learning_rate; the tests hold it to that.

Shape suffixes: U distinct rows, W row width, S state width, T steps.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys.hashing import Floats
from recsys.rows.schedules import Schedule

Int64s = npt.NDArray[np.int64]
Uint32s = npt.NDArray[np.uint32]
Doubles = npt.NDArray[np.float64]


class Rates:
    """Learning rates by step, and the logarithm of all decay up to each; two numbers where they are constant.

    >>> rates = Rates(0.5, None, weight_decay=0.1)
    >>> rates.at(7), np.exp(rates.logarithms * 3).round(6).tolist()
    (0.5, [1.0, 0.857375])
    """

    def __init__(self, learning_rate: float, schedule: Schedule | None, weight_decay: float) -> None:
        self._learning_rate, self._schedule, self._weight_decay = learning_rate, schedule, weight_decay
        self.rates = np.array([learning_rate, learning_rate])
        self.logarithms = np.array([0.0, np.log1p(-learning_rate * weight_decay)])
        self._known = 1
        if schedule is not None:
            self.rates = self.logarithms = np.zeros(1)
            self._known = 0
            self.extend(1)

    def at(self, step: int) -> float:
        """The learning rate of a step."""
        return self._learning_rate if self._schedule is None else float(self.rates[step])

    def extend(self, step: int) -> None:
        """Know the rates up to ``step``, and a good many more."""
        if self._schedule is None or step <= self._known:
            return
        steps_T = np.arange(self._known + 1, 2 * step + 1024)
        rates_T = self._learning_rate * self._schedule.factors(steps_T)
        logarithms_T = self.logarithms[-1] + np.cumsum(np.log1p(-rates_T * self._weight_decay))
        self.rates, self.logarithms = np.append(self.rates, rates_T), np.append(self.logarithms, logarithms_T)
        self._known = int(steps_T[-1])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.rates.nbytes + self.logarithms.nbytes)


@njit(cache=True, inline="always")
def _rate(rates: Doubles, step: int) -> float:
    return rates[step] if len(rates) > 2 else rates[1]


@njit(cache=True, nogil=True, error_model="numpy")
def scale(logarithms: Doubles, values: Floats, slots_U: Int64s, steps: Uint32s, up_to: int) -> None:
    """row *= Π (1 - rate * decay) over the missed steps."""
    for i in range(len(slots_U)):
        slot, since = slots_U[i], np.int64(steps[slots_U[i]])
        if since < up_to:
            if len(logarithms) > 2:
                factor = np.float32(np.exp(logarithms[up_to] - logarithms[since]))
            else:
                factor = np.float32(np.exp(logarithms[1] * (up_to - since)))
            for j in range(values.shape[1]):
                values[slot, j] *= factor


@njit(cache=True, inline="always")
def _stride(step: int, since: int, up_to: int, replay: int) -> int:
    """How many steps to do at once after ``step``: one at first, then equal shares of the rest."""
    rest = up_to - since - replay
    return 1 if step < since + replay else min(up_to - step, (rest + replay - 1) // replay)


@njit(cache=True, inline="always")
def _moved(value: np.float32, by: np.float32, stride: int) -> np.float32:
    """The value less ``by``; in a long stride no further than zero."""
    moved = value - by
    return np.float32(0) if stride > 1 and moved * value < 0 else moved


@njit(cache=True, nogil=True, error_model="numpy")
def momentum(
    settings: Doubles, rates: Doubles, replay: int, values: Floats, state: Floats, slots_U: Int64s, steps: Uint32s,
    up_to: int,
) -> None:  # fmt: skip
    """velocity = momentum * velocity + decay * row; row -= rate * velocity. A linear map: strides square its matrix."""
    decay, kept = settings[0], settings[1]
    for i in range(len(slots_U)):
        slot, step = slots_U[i], np.int64(steps[slots_U[i]])
        since = step
        while step < up_to:
            stride = _stride(step, since, up_to, replay)
            rate = _rate(rates, step + (stride + 1) // 2)
            if stride == 1:
                for j in range(values.shape[1]):
                    state[slot, j] = np.float32(kept) * state[slot, j] + np.float32(decay) * values[slot, j]
                    values[slot, j] -= np.float32(rate) * state[slot, j]
            else:
                # (row, velocity) -> (a row + b velocity, c row + d velocity), to the power of the stride
                a, b, c, d = 1 - rate * decay, -rate * kept, decay, kept
                pa, pb, pc, pd = 1.0, 0.0, 0.0, 1.0
                left = stride
                while left > 0:
                    if left & 1:
                        pa, pb, pc, pd = pa * a + pb * c, pa * b + pb * d, pc * a + pd * c, pc * b + pd * d
                    a, b, c, d = a * a + b * c, a * b + b * d, c * a + d * c, c * b + d * d
                    left >>= 1
                for j in range(values.shape[1]):
                    row, velocity = np.float64(values[slot, j]), np.float64(state[slot, j])
                    values[slot, j] = pa * row + pb * velocity
                    state[slot, j] = pc * row + pd * velocity
            step += stride


@njit(cache=True, nogil=True, error_model="numpy")
def adagrad(
    settings: Doubles, rates: Doubles, replay: int, values: Floats, state: Floats, slots_U: Int64s, steps: Uint32s,
    up_to: int,
) -> None:  # fmt: skip
    """sum += (decay * row)²; row -= rate * decay * row / (√sum + eps)."""
    decay, eps = np.float32(settings[0]), np.float32(settings[1])
    for i in range(len(slots_U)):
        slot, step = slots_U[i], np.int64(steps[slots_U[i]])
        since = step
        while step < up_to:
            stride = _stride(step, since, up_to, replay)
            rate = np.float32(_rate(rates, step + (stride + 1) // 2) * stride)
            for j in range(values.shape[1]):
                gradient = decay * values[slot, j]
                state[slot, j] += np.float32(stride) * gradient * gradient
                if gradient != 0:
                    by = rate * gradient / (np.sqrt(state[slot, j]) + eps)
                    values[slot, j] = _moved(values[slot, j], by, stride)
            step += stride


@njit(cache=True, nogil=True, error_model="numpy")
def rowwise_adagrad(
    settings: Doubles, rates: Doubles, replay: int, values: Floats, state: Floats, slots_U: Int64s, steps: Uint32s,
    up_to: int,
) -> None:  # fmt: skip
    """sum += mean of (decay * row)²; row -= rate * decay * row / (√sum + eps)."""
    decay, eps, width = np.float32(settings[0]), np.float32(settings[1]), np.float32(values.shape[1])
    for i in range(len(slots_U)):
        slot, step = slots_U[i], np.int64(steps[slots_U[i]])
        since = step
        while step < up_to:
            stride = _stride(step, since, up_to, replay)
            rate = np.float32(_rate(rates, step + (stride + 1) // 2) * stride)
            squares = np.float32(0)
            for j in range(values.shape[1]):
                squares += decay * values[slot, j] * (decay * values[slot, j])
            state[slot, 0] += np.float32(stride) * squares / width
            factor = rate / (np.sqrt(state[slot, 0]) + eps)
            for j in range(values.shape[1]):
                values[slot, j] = _moved(values[slot, j], factor * (decay * values[slot, j]), stride)
            step += stride


@njit(cache=True, nogil=True, error_model="numpy")
def adam(
    settings: Doubles, rates: Doubles, replay: int, values: Floats, state: Floats, slots_U: Int64s, steps: Uint32s,
    up_to: int,
) -> None:  # fmt: skip
    """Moments of a gradient that is decay alone (none where it is decoupled), and the drift that they cause."""
    beta1, beta2, eps, decoupled = settings[1], settings[2], np.float32(settings[3]), settings[4]
    decay = np.float32(0) if decoupled else np.float32(settings[0])
    width = values.shape[1]
    for i in range(len(slots_U)):
        slot, step = slots_U[i], np.int64(steps[slots_U[i]])
        since = step
        while step < up_to:
            stride = _stride(step, since, up_to, replay)
            middle = step + (stride + 1) // 2
            rate = _rate(rates, middle)
            kept1, kept2 = beta1**stride, beta2**stride
            kept = np.float32((1 - rate * settings[0]) ** stride) if decoupled else np.float32(1)
            step_size = np.float32(rate * stride / (1 - beta1 ** np.float64(middle)))
            root = np.float32(np.sqrt(1 - beta2 ** np.float64(middle)))
            # of a long stride, its mean: momentum fades within it, the sum of what is left of it is shared out
            share1 = np.float32(beta1 * (1 - kept1) / (1 - beta1) / stride) if stride > 1 else np.float32(0)
            for j in range(width):
                gradient = decay * values[slot, j]
                mean, variance = state[slot, j], state[slot, width + j]
                if stride == 1:
                    mean += np.float32(1 - beta1) * (gradient - mean)
                    variance = np.float32(beta2) * variance + np.float32(1 - beta2) * gradient * gradient
                    moving, spread = mean, variance
                else:
                    moving = gradient + share1 * (mean - gradient)
                    half = np.float32(beta2 ** (stride / 2))
                    spread = half * variance + (1 - half) * gradient * gradient
                    mean = np.float32(kept1) * mean + np.float32(1 - kept1) * gradient
                    variance = np.float32(kept2) * variance + np.float32(1 - kept2) * gradient * gradient
                by = step_size * moving / (np.sqrt(spread) / root + eps)
                values[slot, j] = _moved(kept * values[slot, j], by, stride)
                state[slot, j], state[slot, width + j] = mean, variance
            step += stride


REPLAYS: dict[str, Any] = {
    "momentum": momentum,
    "adagrad": adagrad,
    "rowwise_adagrad": rowwise_adagrad,
    "adam": adam,
    "adamw": adam,
}
