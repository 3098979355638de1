"""Learning rates that fall when the validation metric no longer improves (torch's ReduceLROnPlateau, BARS's recipe).

When that is nobody knows before, so the schedule in the blueprint grows by a step each time: untouched rows catch up by
it, and a checkpoint goes on by it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recsys.errors import ConfigError
from recsys.models.recommender import Blueprint
from recsys.rows.optimizers import build_optimizer

_OPTIMIZERS = {"rows": "optimizer", "first_order": "first_order_optimizer", "dense": "dense_optimizer"}


def slowed(blueprint: Blueprint, step: int, factor: float) -> Blueprint:
    """The blueprint whose learning rates are ``factor`` times as high after ``step``; ConfigError if they can not."""
    fields = {name: getattr(blueprint, name) for name in _OPTIMIZERS.values()}
    changed: dict[str, Any] = {
        name: _slowed(fields[name], step, factor, f"optimizer.{key}")
        for key, name in _OPTIMIZERS.items()
        if fields[name] is not None
    }
    return replace(blueprint, **changed)


def _slowed(optimizer: Mapping[str, Any], step: int, factor: float, where: str) -> dict[str, Any]:
    before = optimizer.get("schedule")
    if before is not None and (before["kind"] != "multi_step" or before["gamma"] != factor):
        raise ConfigError(
            f"{where}.schedule is {before['kind']}, and fit.plateau_factor={factor} changes the rate too; choose one"
        )
    at = [*(before["at"] if before else ()), step]
    new = {**optimizer, "schedule": {"kind": "multi_step", "at": at, "gamma": factor}}
    try:
        build_optimizer(new, where)
    except ConfigError as error:
        raise ConfigError(f"{where}: {optimizer['kind']} has no schedule, so fit.plateau_factor can not be") from error
    return new
