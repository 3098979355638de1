"""Dense parameters in a safetensors file: under their own names, for whoever wants them in torch.

What a store needs besides (keys, optimizer state, times, counters) lies beside them under names that begin with
``dense/``; ``safetensors.torch.load_file`` gives all of it.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import nn

from recsys.errors import DataError
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.dense import DenseParameters
from recsys.rows.store import GroupSnapshot

_BESIDE = "dense/"
_STATE = "state."
Tensors = dict[str, Any]


class HasDense(Protocol):
    """A module whose parameters are rows."""

    dense: DenseParameters

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As torch's."""


def dense_to_bytes(blueprint: Blueprint, group: GroupSnapshot) -> bytes:
    """A safetensors file of a recommender's row group ``dense``."""
    return module_to_bytes(Recommender(blueprint), group)


def dense_from_bytes(blueprint: Blueprint, data: bytes) -> GroupSnapshot:
    """The row group that ``dense_to_bytes`` was given, bit for bit; DataError where the model is another."""
    return module_from_bytes(Recommender(blueprint), data)


def module_to_bytes(module: HasDense, group: GroupSnapshot) -> bytes:
    """The same of any module, which takes over the parameters."""
    rows = module.dense.rows()
    rows[group.keys_U] = group.rows_UW
    module.dense.load(rows)
    tensors = {**_parameters(module), **{_BESIDE + name: values for name, values in _beside(group).items()}}
    return save({name: np.asarray(values, order="C") for name, values in tensors.items()})


def module_from_bytes(module: HasDense, data: bytes) -> GroupSnapshot:
    """The row group that ``module_to_bytes`` was given; the module takes over its parameters."""
    tensors: Tensors = load(data)
    beside = {name.removeprefix(_BESIDE): values for name, values in tensors.items() if name.startswith(_BESIDE)}
    _put_back(module, {name: values for name, values in tensors.items() if not name.startswith(_BESIDE)})
    time_ms, num_steps = beside["counters"].tolist()
    return GroupSnapshot(
        beside["keys"],
        module.dense.rows()[beside["keys"]],
        {name.removeprefix(_STATE): values for name, values in beside.items() if name.startswith(_STATE)},
        beside["event_times"],
        beside["sequences"],
        time_ms=time_ms,
        num_steps=num_steps,
        own_steps_U=beside.get("own_steps"),
    )


def _beside(group: GroupSnapshot) -> Tensors:
    return {
        "keys": group.keys_U,
        "event_times": group.event_times_U,
        "sequences": group.sequences_U,
        "counters": np.array([group.time_ms, group.num_steps], np.int64),
        **({} if group.own_steps_U is None else {"own_steps": group.own_steps_U}),
        **{_STATE + name: values_US for name, values_US in group.state.items()},
    }


def _parameters(module: HasDense) -> Tensors:
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


@torch.no_grad()
def _put_back(module: HasDense, saved: Tensors) -> None:
    parameters = dict(module.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    held = {name: values.shape for name, values in saved.items()}
    if different := sorted(name for name in {*shapes, *held} if shapes.get(name) != held.get(name)):
        name = different[0]
        raise DataError(
            f"the saved model is another than this version builds: its parameter {name} is {held.get(name)}, here "
            f"{shapes.get(name)}; load it with the version that saved it"
        )
    for name, values in saved.items():
        parameters[name].copy_(torch.from_numpy(values))
