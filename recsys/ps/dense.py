"""Dense parameters as rows, so that one pull, one push, one snapshot and one publication cover everything.

A module's parameters, laid end to end, are cut into rows of ``ROW_WIDTH`` numbers in the row group ``dense``. Every
step touches all of them, so a sparse Adam over these rows is torch's Adam.

What a module remembers beside them, batch normalisation's running statistics, lies in the row group ``statistics``.
No gradient moves those: a forward pass in training does. ``statistics`` descends by SGD of rate 1 along (what was
pulled − what the pass left), so that a step of one worker leaves what the pass left, and a step of several the mean of
what theirs did, weighted as their gradients are. They are no gradients of the loss: who clips or scales those leaves
these alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.hashing import Floats, Keys
from recsys.rows.initial import Initial
from recsys.rows.optimizers import SGD, Optimizer
from recsys.rows.store import DENSE, STATISTICS, GroupSnapshot, RowGroup, fresh_rows

__all__ = ["DENSE", "ROW_WIDTH", "STATISTICS", "DenseParameters", "Statistics"]
ROW_WIDTH = 256


class _AsRows:
    """Tensors laid end to end, seen as rows of a group."""

    name: str

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._size = sum(tensor.numel() for tensor in tensors)
        self.keys: Keys = np.arange(max(1, -(-self._size // ROW_WIDTH)), dtype=np.int64)

    def group(self, optimizer: Optimizer) -> RowGroup:
        """The row group that holds them."""
        return RowGroup(
            name=self.name,
            width=ROW_WIDTH,
            num_rows=len(self.keys),
            optimizer=optimizer,
            initial=Initial(scale=0.0),
        )

    def rows(self) -> Floats:
        """The current values, (rows, ROW_WIDTH) float32, zeros after the last."""
        return self._as_rows([tensor.detach() for tensor in self._tensors])

    def initial_snapshot(self, optimizer: Optimizer) -> GroupSnapshot:
        """The current values as rows that were never trained: what a new store starts from."""
        return fresh_rows(self.group(optimizer), self.keys, self.rows())

    @torch.no_grad()
    def load(self, rows: Floats) -> None:
        """Write rows into the module."""
        flat = torch.from_numpy(rows.reshape(-1))
        start = 0
        for tensor in self._tensors:
            end = start + tensor.numel()
            tensor.copy_(flat[start:end].view_as(tensor))
            start = end

    def _as_rows(self, tensors: Sequence[Tensor]) -> Floats:
        flat = np.zeros(len(self.keys) * ROW_WIDTH, np.float32)
        if tensors:
            flat[: self._size] = torch.cat([tensor.reshape(-1).cpu() for tensor in tensors]).numpy()
        return flat.reshape(-1, ROW_WIDTH)


class DenseParameters(_AsRows):
    """The parameters of ``module`` seen as rows.

    >>> module = nn.Linear(300, 1)
    >>> dense = DenseParameters(module)
    >>> rows = dense.rows(); rows.shape
    (2, 256)
    >>> dense.load(rows + 1); float(module.bias.detach() - rows.flat[300])
    1.0
    """

    name = DENSE

    def __init__(self, module: nn.Module) -> None:
        super().__init__(list(module.parameters()))

    def gradients(self) -> tuple[Keys, Floats]:
        """(keys, gradients) for a push; the module's gradients are cleared."""
        gradients = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in self._tensors]
        rows = self._as_rows(gradients)
        for tensor in self._tensors:
            tensor.grad = None
        return self.keys, rows


class Statistics(_AsRows):
    """The float buffers of ``module`` that its ``state_dict`` has, seen as rows; ConfigError for any other dtype.

    >>> norm = nn.BatchNorm1d(2); norm.num_batches_tracked = None
    >>> statistics = Statistics(norm)
    >>> statistics.load(statistics.rows())
    >>> _ = norm(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> statistics.gradients()[1][0, :2].tolist()  # the running mean went a tenth of the way from 0 to 2
    [-0.20000000298023224, 0.0]
    """

    name = STATISTICS
    optimizer = SGD(learning_rate=1.0)

    def __init__(self, module: nn.Module) -> None:
        kept = {
            name: tensor
            for name, tensor in module.state_dict(keep_vars=True).items()
            if not isinstance(tensor, nn.Parameter)
        }
        for name, tensor in kept.items():
            if tensor.dtype != torch.float32:
                raise ConfigError(
                    f"the model keeps {name}, {tensor.dtype}: rows are float32; make it a parameter, or a buffer with "
                    "persistent=False that follows from the config"
                )
        super().__init__(list(kept.values()))
        self._pulled: Floats | None = None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._size > 0

    def load(self, rows: Floats) -> None:
        """Write rows into the module: a forward pass goes on from them."""
        super().load(rows)
        self._pulled = self.rows()

    def gradients(self) -> tuple[Keys, Floats]:
        """(keys, gradients) for a push, after a forward pass in training that began with ``load``."""
        assert self._pulled is not None, "nothing was loaded"
        return self.keys, self._pulled - self.rows()
