"""Feature declarations: the YAML of a data set says what an example holds.

A ``source`` names where a value comes from: ``user.NAME`` the user and their history (``id``, ``shown``, ``likes``,
``like_log_odds``, ``recent_like_log_odds``, ``log_impressions``), ``profile.NAME`` and ``item.NAME`` the facts
published of users and items (``item.id`` itself too), ``time.NAME`` the clock. A data set of plain examples, without
events, has one source: ``column.NAME``, a column of its files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from recsys.errors import ConfigError, unknown
from recsys.fields import AtLeast, Between, NotEmpty, build

OWNERS = ("user", "profile", "item", "time", "column")
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

    Of columns: ``min_count`` numbers the ids from 1 on, those that the training part has so often, the most frequent
    first; all others are id 0. What is absent is an id like others. ``bucketing`` makes ids of numbers: ``log_squared``
    is ⌊ln(x)²⌋ above 2, ⌊x⌋ up to there (the 3 Idiots' of Criteo's challenge, 2014). ``scaling`` of a number: by the
    training part's mean and deviation, or by sign(x) ln(1 + |x|).

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
    min_count: Annotated[int, AtLeast(1)] | None = None
    bucketing: Literal["log_squared"] | None = None
    scaling: Literal["standard", "log"] | None = None

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
        self._check_encoding(owner)

    def _check_encoding(self, owner: str) -> None:
        """What only columns have, and not every kind of feature."""
        for field, fits in (
            ("min_count", self.kind != "number" and self.vocabulary is None),
            ("bucketing", self.kind == "id" and self.vocabulary is None),
            ("scaling", self.kind == "number"),
        ):
            value = getattr(self, field)
            if value is not None and not (fits and owner == "column"):
                raise ConfigError(
                    f"feature {self.name!r}: {field}={value} does not go with kind={self.kind}, source={self.source}"
                    f"{'' if self.vocabulary is None else ' and a vocabulary'}; leave it out"
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
class ExampleFiles:
    """``data.files``: CSV or Parquet files of examples; without valid and test, shares of ``train`` drawn by seed."""

    train: Path
    valid: Path | None = None
    test: Path | None = None

    def __post_init__(self) -> None:
        if (self.valid is None) != (self.test is None):
            raise ConfigError(f"valid={self.valid} with test={self.test}; give both, or train alone")


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """``data.synthetic``: how much is drawn; ``num_ids`` of each feature; how far the world turns meanwhile."""

    num_examples: Annotated[int, AtLeast(100)]
    num_ids: Annotated[int, AtLeast(2)]
    drift: Annotated[float, Between(0, 1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class PlainExamples:
    """``data.examples``: a data set of plain examples, one a row, without events.

    ``label`` is the column of 0 and 1; ``group`` the feature by whose ids the grouped AUC goes. ``files`` are the
    user's own; without them, and without ``synthetic``, the data set's name says how it is read. ``seed`` draws what is
    drawn: negatives, splits, synthetic examples.
    """

    label: Annotated[str, NotEmpty()] = "label"
    group: Annotated[str, NotEmpty()] | None = None
    files: ExampleFiles | None = None
    synthetic: Synthetic | None = None
    seed: Annotated[int, AtLeast(0)] = 0


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as its YAML declares it: its name, its prepared folder, its features.

    Of events, which are joined to examples; or, with ``examples``, of those themselves.
    """

    name: Annotated[str, NotEmpty()]
    folder: Path
    features: tuple[Feature, ...]
    examples: PlainExamples | None = None

    def __post_init__(self) -> None:
        _check_distinct(self.features)
        for feature in self.features:
            if feature.source.startswith("column.") != (self.examples is not None):
                raise ConfigError(
                    f"features: {feature.name!r} is of {feature.source}, but data set {self.name!r} is of "
                    f"{'events' if self.examples is None else 'plain examples'}; columns are what plain examples have, "
                    "and all that they have"
                )
        grouped = None if self.examples is None else self.examples.group
        if grouped is not None and grouped not in [f.name for f in self.features if f.kind == "id"]:
            raise unknown("examples.group", grouped, [f.name for f in self.features if f.kind == "id"])


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
