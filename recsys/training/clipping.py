"""Gradient clipping by the norm of everything that a step pushes: the rows it touched and the dense parameters."""

import math
from collections.abc import Mapping

import numpy as np

from recsys.rows.store import STATISTICS, Gradients


def clip(gradients: Mapping[str, Gradients], most: float) -> bool:
    """Scale gradients in place so that their common norm is at most ``most``; whether that was needed.

    Statistics, which a step sets, have none.

    As ``torch.nn.utils.clip_grad_norm_``. What optimizers add by themselves, weight decay, is not in the norm: a dense
    run whose loss has an L2 term clips that too, and is the same as long as neither clips.

    >>> gradients = {"item": (np.array([1]), np.array([[3.0, 4.0]], np.float32))}
    >>> clip(gradients, 1.0), gradients["item"][1].round(3).tolist()
    (True, [[0.6000000238418579, 0.800000011920929]])
    """
    arrays_of = [arrays for name, arrays in gradients.items() if name != STATISTICS]
    norm = math.sqrt(sum(float(np.vdot(arrays[1], arrays[1])) for arrays in arrays_of))
    if not norm > most:  # not finite: the store says which group it is
        return False
    factor = np.float32(most / (norm + 1e-6))
    for arrays in arrays_of:
        np.multiply(arrays[1], factor, out=arrays[1])
    return True
