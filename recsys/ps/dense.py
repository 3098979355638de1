"""Dense parameters as rows, so that one pull, one push, one snapshot and one publication cover everything.

A module's parameters, laid end to end, are cut into rows of ``ROW_WIDTH`` numbers in the row group ``dense``. Every
step touches all of them, so a sparse Adam over these rows is torch's Adam.
"""

import numpy as np
import torch
from torch import nn

from recsys.hashing import Floats, Keys
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.rows.store import DENSE, GroupSnapshot, RowGroup, fresh_rows

__all__ = ["DENSE", "ROW_WIDTH", "DenseParameters"]
ROW_WIDTH = 256


class DenseParameters:
    """The parameters of ``module`` seen as rows.

    >>> module = nn.Linear(300, 1)
    >>> dense = DenseParameters(module)
    >>> rows = dense.rows(); rows.shape
    (2, 256)
    >>> dense.load(rows + 1); float(module.bias.detach() - rows.flat[300])
    1.0
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters())
        self._size = sum(parameter.numel() for parameter in self._parameters)
        self.keys: Keys = np.arange(max(1, -(-self._size // ROW_WIDTH)), dtype=np.int64)

    def group(self, optimizer: Optimizer) -> RowGroup:
        """The row group that holds them."""
        return RowGroup(
            name=DENSE,
            width=ROW_WIDTH,
            num_rows=len(self.keys),
            optimizer=optimizer,
            initial=Initial(scale=0.0),
        )

    def rows(self) -> Floats:
        """The module's current values, (rows, ROW_WIDTH) float32, zeros after the last."""
        return self._as_rows([parameter.detach() for parameter in self._parameters])

    def initial_snapshot(self, optimizer: Optimizer) -> GroupSnapshot:
        """The module's current values as rows that were never trained: what a new store starts from."""
        return fresh_rows(self.group(optimizer), self.keys, self.rows())

    @torch.no_grad()
    def load(self, rows: Floats) -> None:
        """Write rows into the module's parameters."""
        flat = torch.from_numpy(rows.reshape(-1))
        start = 0
        for parameter in self._parameters:
            end = start + parameter.numel()
            parameter.copy_(flat[start:end].view_as(parameter))
            start = end

    def gradients(self) -> tuple[Keys, Floats]:
        """(keys, gradients) for a push; the module's gradients are cleared."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self._parameters
        ]
        rows = self._as_rows(gradients)
        for parameter in self._parameters:
            parameter.grad = None
        return self.keys, rows

    def _as_rows(self, tensors: list[torch.Tensor]) -> Floats:
        flat = np.zeros(len(self.keys) * ROW_WIDTH, np.float32)
        if tensors:
            flat[: self._size] = torch.cat([tensor.reshape(-1) for tensor in tensors]).numpy()
        return flat.reshape(-1, ROW_WIDTH)
