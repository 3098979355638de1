"""Plain examples from file to batch: prepared in two passes, streamed in a seeded order, refused if they can not be."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from composing import composed
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.prepare import PrepareSettings
from recsys.datasets import frappe
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import DataSet, ExampleFiles, Feature, PlainExamples
from recsys.fields import build
from recsys.tabular.batches import ExampleFile
from recsys.tabular.prepare import prepare_examples
from recsys.tabular.prepared import open_examples
from recsys.tabular.synthetic import Drawing
from recsys.training import metrics

FEATURES = (
    Feature(name="user", kind="id", source="column.who", min_count=1),
    Feature(name="tags", kind="bag", source="column.tags", min_count=2, max_length=3),
    Feature(name="word", kind="id", source="column.word", vocabulary=("yes", "no")),
    Feature(name="price", kind="number", source="column.price"),
)
RECSYS_DATA = os.environ.get("RECSYS_DATA")
needs_data = pytest.mark.skipif(RECSYS_DATA is None, reason="RECSYS_DATA names no folder with data sets")


def rows(num: int) -> pa.Table:
    """Row r is told by its price, r; every third word is not listed, tags are r % 4 many."""
    return pa.table(
        {
            "who": [f"u{r % 7}" for r in range(num)],
            "tags": ["|".join(str(r % 5 + at) for at in range(r % 4)) for r in range(num)],
            "word": [("yes", "no", "perhaps")[r % 3] for r in range(num)],
            "price": [float(r) for r in range(num)],
            "click": [int(r % 5 == 0) for r in range(num)],
        }
    )


def data_set(folder: Path, train: Path, valid: Path | None = None, test: Path | None = None, **fields: Any) -> DataSet:
    files = ExampleFiles(train=train, valid=valid, test=test)
    examples = PlainExamples(label="click", group="user", files=files, **fields)
    return DataSet(name="mine", folder=folder / "mine", features=FEATURES, examples=examples)


def prepared_rows(folder: Path, num: int) -> DataSet:
    """A data set whose train part is ``rows(num)``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", num), ("valid", 20), ("test", 10)):
        pq.write_table(rows(size), folder / f"{split}.parquet")
    data = data_set(folder, *(folder / f"{split}.parquet" for split in ("train", "valid", "test")))
    prepare_examples(data, data_folder=None, on_progress=lambda line: None)
    return data


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_from_file_to_batch(ending: str, tmp_path: Path) -> None:
    table, path = rows(50), tmp_path / f"all.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, tmp_path / "all.csv")
    if ending == "csv.gz":
        path.write_bytes(gzip.compress((tmp_path / "all.csv").read_bytes()))
    data = data_set(tmp_path, path, path, path)
    manifest = prepare_examples(data, data_folder=None, on_progress=lambda line: None)
    assert manifest.num_examples == {"train": 50, "valid": 50, "test": 50}
    assert manifest.num_positives["train"] == 10
    prepared = open_examples(data)
    assert {f.name: f.num_embeddings for f in prepared.features} == {"user": 8, "tags": 8, "word": None, "price": None}
    (batch,) = ExampleFile(prepared.file("train"), prepared.features, group="user").batches(64)
    assert batch.labels_B.tolist() == [float(r % 5 == 0) for r in range(50)]
    assert batch.numbers_BM.tolist() == [[float(r)] for r in range(50)]
    users = pq.read_table(tmp_path / "mine" / "vocabulary" / "user.parquet")["value"].to_pylist()
    assert [users[id_ - 1] for id_ in batch.user_ids] == [f"u{r % 7}" for r in range(50)]
    tags = pq.read_table(tmp_path / "mine" / "vocabulary" / "tags.parquet")["value"].to_pylist()
    at = batch.bags["tags"]
    for r in range(50):
        found = [tags[id_ - 1] for id_ in at.ids_N[at.offsets[r] : at.offsets[r + 1]]]
        assert found == [str(r % 5 + at) for at in range(r % 4)]
    words = batch.bags["word"]
    assert np.diff(words.offsets).tolist() == [int(r % 3 < 2) for r in range(50)]
    assert words.ids_N.tolist() == [r % 3 for r in range(50) if r % 3 < 2]


def test_one_file_is_shared_out_by_seed(tmp_path: Path) -> None:
    pq.write_table(rows(5000), tmp_path / "all.parquet")
    parts = {}
    for seed in (0, 1):
        data = data_set(tmp_path / str(seed), tmp_path / "all.parquet", seed=seed)
        manifest = prepare_examples(data, data_folder=None, on_progress=lambda line: None)
        assert 3850 < manifest.num_examples["train"] < 4150 and 400 < manifest.num_examples["test"] < 600
        prices = [
            pq.read_table(data.folder / f"{split}.parquet")["price"].to_pylist() for split in manifest.num_examples
        ]
        assert sorted(price for part in prices for price in part) == list(range(5000))  # each once
        parts[seed] = prices[2]
    assert parts[0] != parts[1]


def test_what_was_prepared_is_left_alone_until_it_is_declared_otherwise(tmp_path: Path) -> None:
    data = prepared_rows(tmp_path, 30)
    said: list[str] = []
    prepare_examples(data, data_folder=None, on_progress=said.append)
    assert said == [f"mine is already prepared in {tmp_path / 'mine'}; nothing to do"]
    other = DataSet(name="mine", folder=data.folder, features=FEATURES[:2], examples=data.examples)
    with pytest.raises(DataError, match=r"prepared from other declarations of data=mine; run: python -m jobs"):
        open_examples(other)
    prepare_examples(other, data_folder=None, on_progress=said.append)
    assert [f.name for f in open_examples(other).features] == ["user", "tags"]
    (data.folder / "valid.parquet").write_bytes(b"short")
    with pytest.raises(DataError, match=r"valid\.parquet has 5 bytes, its manifest says"):
        open_examples(other)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared file of 997 rows in row groups of 100, and one of the same rows in one."""
    data = prepared_rows(tmp_path_factory.mktemp("streamed"), 997)
    table = pq.read_table(data.folder / "train.parquet")
    pq.write_table(table, data.folder / "groups.parquet", row_group_size=100)
    return data.folder / "groups.parquet"


def prices(file: ExampleFile, size: int, **fields: Any) -> list[list[int]]:
    return [batch.numbers_BM[:, 0].astype(int).tolist() for batch in file.batches(size, **fields)]


@settings(max_examples=30)
@given(st.sampled_from([50, 150, 370, 5000]), st.integers(1, 400), st.integers(0, 996), st.booleans())
def test_an_epoch_has_every_row_once_and_begins_anywhere(
    streamed: Path, rows_in_memory: int, size: int, start: int, shuffled: bool
) -> None:
    """From a later row on an epoch is what was left of it, however much of the file is in memory."""
    file = ExampleFile(streamed, FEATURES, group="user", rows_in_memory=rows_in_memory)
    seed = [3, 1] if shuffled else None
    whole = prices(file, size, seed=seed)
    rows_in_order = [row for batch in whole for row in batch]
    assert sorted(rows_in_order) == list(range(997))
    assert (rows_in_order != list(range(997))) == shuffled
    assert [len(batch) for batch in whole] == [size] * (997 // size) + [997 % size] * (997 % size > 0)
    begun = prices(file, size, seed=seed, start=start)
    assert [row for batch in begun for row in batch] == rows_in_order[start:]


def test_seeds_order_and_bags_go_with_their_rows(streamed: Path) -> None:
    file = ExampleFile(streamed, FEATURES, group="user", rows_in_memory=250)
    assert prices(file, 64, seed=[0, 0]) == prices(file, 64, seed=[0, 0]) != prices(file, 64, seed=[0, 1])
    for batch in file.batches(64, seed=[0, 0]):
        row_B = batch.numbers_BM[:, 0].astype(int)
        assert batch.labels_B.tolist() == (row_B % 5 == 0).tolist()
        assert np.diff(batch.bags["tags"].offsets).tolist() == (row_B % 4).tolist()
        assert np.diff(batch.bags["word"].offsets).tolist() == (row_B % 3 < 2).tolist()
        assert len(batch.user_ids) == len(row_B)


# --- what can not be


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"a\.csv holds no examples"),
        ("who,tags,word,price,click\n", r"a\.csv holds no examples"),
        ("who,tags,word,click\na,,yes,1\n", r"a\.csv: columns price missing, found who, tags, word, click"),
        ("who,tags,word,price,click\na,,yes,1,7\n", "label 7 in column 'click'; labels are 0 or 1"),
        ("who,tags,word,price,click\na,,yes,1,\n", "label None in column 'click'; labels are 0 or 1"),
        ("who,tags,word,price,click\na,,yes,1,often\n", "label 'often' in column 'click'; labels are 0 or 1"),
        ("who,tags,word,price,click\na,,yes,NaN,1\n", "nan is no finite float32"),
        ("who,tags,word,price,click\na,,yes,cheap,1\n", r"a\.csv: .*cheap"),
    ],
)
def test_files_that_can_not_be_are_told_in_one_line(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    data = data_set(tmp_path, *[tmp_path / "a.csv"] * 3)
    with pytest.raises(DataError, match=says) as caught:
        prepare_examples(data, data_folder=None, on_progress=lambda line: None)
    assert len(str(caught.value).splitlines()) == 1
    assert not data.folder.exists()


def test_a_missing_file_and_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv is missing"):
        prepare_examples(data_set(tmp_path, tmp_path / "nowhere.csv"), data_folder=None, on_progress=lambda line: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="holds something else than prepared examples"):
        prepare_examples(data_set(tmp_path, tmp_path / "a.csv"), data_folder=None, on_progress=lambda line: None)


def test_columns_and_events_do_not_mix() -> None:
    with pytest.raises(ConfigError, match=r"'user' is of user\.id, but data set 'mine' is of plain examples"):
        DataSet(
            name="mine",
            folder=Path("x"),
            features=(Feature(name="user", kind="id", source="user.id"),),
            examples=PlainExamples(),
        )
    with pytest.raises(ConfigError, match=r"'f' is of column\.f, but data set 'mine' is of events"):
        DataSet(name="mine", folder=Path("x"), features=(Feature(name="f", kind="id", source="column.f"),))
    with pytest.raises(ConfigError, match=r"unknown examples\.group 'item'; known: f"):
        DataSet(
            name="mine",
            folder=Path("x"),
            features=(Feature(name="f", kind="id", source="column.f"),),
            examples=PlainExamples(group="item"),
        )


# --- the sets that have a name


def named(name: str, folder: Path, *overrides: str) -> DataSet:
    config = composed("prepare", f"data={name}", f"data.folder={folder / name}", *overrides)
    return build(PrepareSettings, config, "").data


@needs_data
def test_frappe_is_barss(tmp_path: Path) -> None:
    """Counts as published; BARS's models have rows for 5,389 ids, ten of them the fields' unknown ones."""
    data = named("frappe", tmp_path)
    manifest = prepare_examples(data, data_folder=Path(RECSYS_DATA or ""), on_progress=lambda line: None)
    assert manifest.num_examples == {"train": 202_027, "valid": 57_722, "test": 28_860}
    assert manifest.num_positives == {"train": 67_604, "valid": 19_063, "test": 9_536}
    assert sum(learned["num_ids"] for learned in manifest.learned.values()) == 5_389


@needs_data
def test_frappes_negatives_are_apps_that_their_users_never_used() -> None:
    tables = frappe.find(Path(RECSYS_DATA or "") / "frappe", seed=1)
    other = frappe.find(Path(RECSYS_DATA or "") / "frappe", seed=2)
    assert tables is not None and other is not None
    rows = [np.stack([table[name].to_numpy() for name in (*frappe.FIELDS, "label")], axis=1) for table in tables]
    negatives = rows[0][rows[0][:, -1] == 0]
    every = np.concatenate(rows)
    used = set(map(tuple, every[every[:, -1] == 1][:, :2].tolist()))
    assert len(negatives) == 134_423
    assert not used & set(map(tuple, negatives[:, :2].tolist()))
    # two negatives in a positive's very context, over all three parts together
    contexts = np.ascontiguousarray(np.delete(every[:, :-1], 1, axis=1)).view("V72").reshape(-1)
    _, kind = np.unique(contexts, return_inverse=True)
    assert set(np.bincount(kind, np.where(every[:, -1] == 1, 2, -1)).tolist()) == {0}
    assert not tables[0].equals(other[0]) and tables[1].equals(other[1])


@needs_data
@pytest.mark.parametrize(
    ("name", "total", "num_positives"), [("adult", 48_842, 11_687), ("criteo", 8_000, 1_728), ("avazu", 8_999, 1_563)]
)
def test_named_sets_prepare(name: str, total: int, num_positives: int, tmp_path: Path) -> None:
    manifest = prepare_examples(
        named(name, tmp_path), data_folder=Path(RECSYS_DATA or ""), on_progress=lambda line: None
    )
    assert sum(manifest.num_examples.values()) == total
    assert sum(manifest.num_positives.values()) == num_positives
    features = open_examples(named(name, tmp_path)).features
    assert all(feature.num_embeddings for feature in features if feature.kind == "id")


def test_criteos_own_file_is_read(tmp_path: Path) -> None:
    """Tab-separated, without a header, empty where nothing is known."""
    lines = [
        "\t".join([str(r % 2), *[str(r) if r % 3 else ""] * 13, *[f"{r % 4:08x}" if r % 5 else ""] * 26])
        for r in range(400)
    ]
    (tmp_path / "own" / "criteo").mkdir(parents=True)
    (tmp_path / "own" / "criteo" / "train.txt").write_text("\n".join(lines) + "\n")
    manifest = prepare_examples(named("criteo", tmp_path), data_folder=tmp_path / "own", on_progress=lambda line: None)
    assert sum(manifest.num_examples.values()) == 400 and sum(manifest.num_positives.values()) == 200
    assert manifest.learned["C26"]["num_ids"] == 6  # four words, the absent one, the unknown one


def test_synthetic_examples_have_the_auc_that_is_told(tmp_path: Path) -> None:
    data = named("synthetic", tmp_path, "data.examples.synthetic.num_examples=3000")
    manifest = prepare_examples(data, data_folder=None, on_progress=lambda line: None)
    assert manifest.num_examples == {"train": 3000, "valid": 300, "test": 300}
    drawing = Drawing(num_examples=3000, num_ids=10_000, seed=0)
    batch, odds_N = drawing._batch("another", 0, np.zeros(60_000))
    auc = metrics.auc(batch.column("label"), odds_N)
    assert auc == pytest.approx(manifest.about["best_auc"], abs=0.006)  # 3 standard errors
    assert 0.75 < auc < 0.85
    # a train part that is longer begins alike
    longer = next(iter(Drawing(num_examples=5000, num_ids=10_000, seed=0).batches("train")))
    assert longer.num_rows == 5000


def test_a_stream_that_drifts_ends_in_another_world(tmp_path: Path) -> None:
    """Half of the ids are replaced by the end, by share of their occurrences; what is then right was not at first."""
    data = named("synthetic_stream", tmp_path, "data.examples.synthetic.num_examples=40000")
    manifest = prepare_examples(data, data_folder=None, on_progress=lambda line: None)
    prepared = open_examples(data)
    ids_N = np.concatenate([pq.read_table(prepared.file(split))["C3"].to_numpy() for split in ("train", "test")])
    renewed_N = ids_N >= 2000
    assert ids_N.max() < 4000 and renewed_N[:2000].mean() < 0.05
    assert renewed_N[-4000:].mean() == pytest.approx(
        0.5 * 11.5 / 12, abs=0.12
    )  # one of 2,000 ids may be a tenth of all
    drawing = Drawing(num_examples=40_000, num_ids=2000, seed=0, drift=0.5)
    (first, odds_N), (_, later_N) = (drawing._batch("another", 0, np.full(30_000, time)) for time in (0.0, 1.0))
    labels = first.column("label")
    assert metrics.auc(labels, odds_N) == pytest.approx(manifest.about["best_auc"], abs=0.03)
    assert metrics.auc(labels, later_N) < metrics.auc(labels, odds_N) - 0.05
    # without drift, the weights of any time are those of the first
    still = Drawing(num_examples=40_000, num_ids=2000, seed=0)
    (_, before_N), (_, after_N) = (still._batch("another", 0, np.full(1000, time)) for time in (0.0, 1.0))
    np.testing.assert_array_equal(before_N, after_N)


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    data = prepared_rows(tmp_path, 30)
    said = json.loads((data.folder / "examples.json").read_text())
    assert said["num_examples"] == {"train": 30, "valid": 20, "test": 10}
    assert set(said["bytes"]) == {
        "train.parquet", "valid.parquet", "test.parquet", "vocabulary/user.parquet", "vocabulary/tags.parquet"
    }  # fmt: skip
