"""A file that is no set of examples is told by what is wrong with it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import RecsysError
from recsys.features.declarations import Feature
from recsys.tabular.checking import open_file

FEATURES = (
    Feature(name="user", kind="id", source="column.user"),
    Feature(name="tags", kind="bag", source="column.tags"),
    Feature(name="price", kind="number", source="column.price"),
)
GOOD: dict[str, Any] = {"user": [1, 2], "tags": [[1], []], "price": [0.5, 1.5], "label": [0, 1]}


def written(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({name: values for name, values in {**GOOD, **columns}.items() if values is not None}), path)
    return path


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    (batch,) = open_file(written(tmp_path / "a.parquet"), FEATURES, "user").batches(10)
    assert batch.labels_B.tolist() == [0, 1] and batch.user_ids == [1, 2] and batch.bags["tags"].ids_N.tolist() == [1]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": None}, "has no column 'label'"),
        ({"user": None}, "has no column 'user'"),
        ({"user": ["a", "b"]}, "column 'user' is string, and integers or lists of them are needed"),
        ({"tags": [1, 2]}, "column 'tags' is int64, and lists of integers are needed"),
        ({"price": ["a", "b"]}, "column 'price' is string, and numbers are needed"),
        ({name: pa.array(values).slice(0, 0) for name, values in GOOD.items()}, "has no rows"),
    ],
)
def test_what_is_wrong_is_told(columns: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match=says):
        open_file(written(tmp_path / "a.parquet", **columns), FEATURES)


def test_a_group_is_an_id_feature_and_a_file_is_there(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="unknown group 'tags'"):
        open_file(written(tmp_path / "a.parquet"), FEATURES, "tags")
    with pytest.raises(RecsysError, match="there is no such file"):
        open_file(tmp_path / "b.parquet", FEATURES)
