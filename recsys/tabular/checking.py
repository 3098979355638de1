"""A Parquet file of examples from elsewhere, checked before it is read as a prepared one."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import ConfigError, DataError, unknown
from recsys.features.declarations import Feature
from recsys.tabular.batches import ExampleFile
from recsys.tabular.prepared import LABEL


def open_file(path: Path, features: Sequence[Feature], group: str | None = None) -> ExampleFile:
    """The examples of a file that has a column for each feature, and labels; ``group`` names an id feature.

    ConfigError for a group that is none; DataError where a column is missing or of another type, or there is no row.
    """
    ids = [feature.name for feature in features if feature.kind == "id"]
    if group is not None and group not in ids:
        raise unknown("group", group, ids)
    if not path.is_file():
        raise ConfigError(f"examples={path}: there is no such file; python -m jobs.prepare writes some in its folder")
    examples = ExampleFile(path, features, group=group)
    schema = pq.read_schema(path)
    for name, takes in [(LABEL, "numbers"), *((feature.name, _takes(feature)) for feature in features)]:
        if name not in schema.names:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(schema.names)}")
        if not _is(schema.field(name).type, takes):
            raise DataError(f"{path}: column {name!r} is {schema.field(name).type}, and {takes} are needed")
    if not examples.num_examples:
        raise DataError(f"{path} has no rows")
    return examples


def _takes(feature: Feature) -> str:
    return {"id": "integers or lists of them", "number": "numbers"}.get(feature.kind, "lists of integers")


def _is(kind: pa.DataType, takes: str) -> bool:
    """Whether a column of this type holds what is needed."""
    if takes == "numbers":
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
    if pa.types.is_list(kind):
        return bool(pa.types.is_integer(kind.value_type))
    return takes == "integers or lists of them" and bool(pa.types.is_integer(kind))
