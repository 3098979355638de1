"""Feature declarations: the YAML of a data set says what an example holds.

A ``source`` names where a value comes from: ``user.NAME`` the user and their history (``id``, ``shown``, ``likes``,
``like_log_odds``, ``recent_like_log_odds``, ``log_impressions``), ``profile.NAME`` and ``item.NAME`` the facts
published of users and items (``item.id`` itself too), ``time.NAME`` the clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from recsys.errors import ConfigError, unknown
from recsys.fields import AtLeast, NotEmpty, build

OWNERS = ("user", "profile", "item", "time")
HISTORY = ("id", "shown", "likes", "like_log_odds", "recent_like_log_odds", "log_impressions")
SEQUENCES = ("shown", "likes")
CLOCK = ("hour_of_day", "day_of_week")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature of an example.

    ``id``: at most one id; ``bag``: any number of ids, the first ``max_length`` kept; ``sequence``: a bag whose order
    means something, the latest first in ``user.shown`` and ``user.likes``, as they were published in facts (a model
    that pools takes it as a bag); ``number``: a float. Features that name the same ``table`` share its rows.
    ``vocabulary`` turns listed strings into 0, 1, …; values that are not listed are left out. Without it, strings are
    hashed to 64-bit ids. ``num_embeddings`` is the size of a full table, and what ``compression=`` counts from.

    >>> Feature(name="liked", kind="bag", source="user.likes", table="item").table_name
    'item'
    """

    name: Annotated[str, NotEmpty()]
    kind: Literal["id", "bag", "sequence", "number"]
    source: str
    table: Annotated[str, NotEmpty()] | None = None
    num_embeddings: Annotated[int, AtLeast(1)] | None = None
    vocabulary: Annotated[tuple[str, ...], NotEmpty()] | None = None
    max_length: Annotated[int, AtLeast(1)] = 50

    def __post_init__(self) -> None:
        owner, _, name = self.source.partition(".")
        if owner not in OWNERS or not name:
            raise unknown(f"source of feature {self.name!r}:", self.source, [f"{o}.…" for o in OWNERS])
        if owner == "user" and name not in HISTORY:
            raise unknown(f"source of feature {self.name!r}:", self.source, [f"user.{n}" for n in HISTORY])
        if owner == "time" and name not in CLOCK:
            raise unknown(f"source of feature {self.name!r}:", self.source, [f"time.{n}" for n in CLOCK])
        if self.kind == "sequence" and (owner == "time" or (owner == "user" and name not in SEQUENCES)):
            raise ConfigError(
                f"feature {self.name!r}: {self.source} is no sequence; use user.{' or user.'.join(SEQUENCES)}, or a "
                "list among the facts (profile.…, item.…)"
            )

    @property
    def table_name(self) -> str:
        """The table whose rows this feature reads."""
        return self.table or self.name

    @property
    def size(self) -> int | None:
        """How many ids there can be, where that is known."""
        return len(self.vocabulary) if self.vocabulary is not None else self.num_embeddings


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as its YAML declares it: its name, the folder of its prepared events, its features."""

    name: Annotated[str, NotEmpty()]
    folder: Path
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        _check_distinct(self.features)


def build_features(declared: Sequence[Mapping[str, Any]]) -> tuple[Feature, ...]:
    """Features from their YAML; ConfigError for a field that can not be, or a name declared twice.

    >>> [f.name for f in build_features([{"name": "user", "kind": "id", "source": "user.id"}])]
    ['user']
    """
    features = tuple(build(Feature, fields, f"data.features[{at}]") for at, fields in enumerate(declared))
    _check_distinct(features)
    return features


def _check_distinct(features: Sequence[Feature]) -> None:
    names = [feature.name for feature in features]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"feature names {repeated} are declared more than once; rename one")


def features_to_json(features: Sequence[Feature]) -> list[dict[str, Any]]:
    """Declarations as plain values, to go with a published model; ``build_features`` reads them back."""
    return [asdict(feature) for feature in features]
