"""What a search may choose of: ranges and choices by the names of options, as the YAML of jobs.tune has them."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

from recsys.errors import ConfigError
from recsys.fields import NotEmpty

Parameters = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Numbers from ``low`` to ``high``, whole ones where both are, each order of magnitude alike with ``log``.

    Or ``choices``: one of these.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: Annotated[tuple[int | float | str | bool, ...], NotEmpty()] | None = None

    def check(self, where: str) -> None:
        """ConfigError, by the key, where fields do not go together."""
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ConfigError(f"{where}.choices={list(self.choices)} beside a range; give low and high, or choices")
            return
        if self.low is None or self.high is None:
            raise ConfigError(f"{where}.low={self.low} and high={self.high} make no range; give both, or choices")
        if self.log and self.low <= 0:
            raise ConfigError(f"{where}.low={self.low} must be above 0 where log=true")
        if not self.low < self.high:
            raise ConfigError(f"{where}.high={self.high} must be above low={self.low}")


Space = Mapping[str, Span]


def with_parameters(config: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """A configuration with options of dotted names set; what is no section there is a ConfigError.

    >>> with_parameters({"model": {"kind": "fm"}, "seed": 0}, {"model.rank": 2, "seed": 1})
    {'model': {'kind': 'fm', 'rank': 2}, 'seed': 1}
    """
    changed = deepcopy(dict(config))
    for name, value in parameters.items():
        *sections, key = name.split(".")
        within = changed
        for section in sections:
            if not isinstance(within.get(section), dict):
                raise ConfigError(f"space.{name}: there is no section {section!r}; name an option of conf/train.yaml")
            within = within[section]
        within[key] = value
    return changed


def trial_name(parameters: Parameters) -> str:
    """What a trial is called by what it was given: the same again is the same trial.

    >>> trial_name({"a": 1, "b": 2}) == trial_name({"b": 2, "a": 1})
    True
    """
    said = json.dumps(dict(sorted(parameters.items())))
    return hashlib.sha256(said.encode()).hexdigest()[:10]
