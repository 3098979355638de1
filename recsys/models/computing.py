"""On what a model is computed, and in what precision: beside the tables, which stay where their rows are."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from recsys.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Computing:
    """``device`` and ``precision`` of the dense part; ConfigError for a device that is not there.

    bf16 is torch's autocast: multiplications in 16 bits, sums and parameters in 32. It is for training alone;
    predictions are what servers make, in float32.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bf16"] = "float32"

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device=cuda: torch finds no GPU and driver on this machine; use device=cpu")

    def autocast(self, *, training: bool) -> AbstractContextManager[Any]:
        """The context that the model runs in."""
        if self.precision == "float32" or not training:
            return nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    def moved(self, given: Any) -> Any:
        """What the model is given, on its device: tensors, and named tuples and dicts of them."""
        if self.device == "cpu":
            return given
        if isinstance(given, Tensor):
            return given.to(self.device)
        if isinstance(given, dict):
            return {name: self.moved(value) for name, value in given.items()}
        return type(given)(*(self.moved(value) for value in given))
