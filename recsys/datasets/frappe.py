"""Frappe_x1 as BARS splits it: 202,027 / 57,722 / 28,860 examples, two negatives to a positive (Baltrunas et al. 2015).

Valid and test are those of He and Chua's neural factorization machine, exactly; of train its positives. Its file of
negatives is lost: they are drawn anew, as that paper draws them (same user and context, an app that the user never
used), from a seed. Examples were shared out one by one, so a negative of train may belong to a positive of test: who
and in what context each of the 134,423 was is known exactly, as two for every positive less those in valid and test.
Six of train's positives stood there twice, which ones is not known: six are drawn to be repeated.

Shape suffixes: P positives, N negatives, F fields.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.datasets.raw import read_parquet, require_files
from recsys.errors import DataError

FIELDS = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
COUNTS = {"train": 202_027, "valid": 57_722, "test": 28_860}
NUM_POSITIVES = {"train": 67_604, "valid": 19_063, "test": 9_536}
_FILES = {
    "train": "nfm_train_positives_derived.parquet",
    "valid": "nfm_validation.parquet",
    "test": "nfm_test.parquet",
}
_TYPES: dict[str, pa.DataType] = dict.fromkeys(FIELDS, pa.int64())
_USER, _ITEM = FIELDS.index("user"), FIELDS.index("item")
Ints = npt.NDArray[np.int64]


def find(folder: Path, seed: int) -> tuple[pa.Table, pa.Table, pa.Table] | None:
    """(train, valid, test) with a column ``label`` of 0 and 1, or None where the folder has no Frappe."""
    if not (folder / _FILES["valid"]).is_file():
        return None
    require_files(folder, list(_FILES.values()))
    positives = read_parquet(folder / _FILES["train"], _TYPES)
    valid, test = (_labelled(folder / _FILES[split]) for split in ("valid", "test"))
    train = _with_negatives(positives, [valid, test], np.random.default_rng(seed))
    for split, table in (("train", train), ("valid", valid), ("test", test)):
        _check(split, table, folder)
    return train, valid, test


def _labelled(path: Path) -> pa.Table:
    table = read_parquet(path, {**_TYPES, "label": pa.int8()})
    clicked_N = table["label"].to_numpy() == 1  # -1 is a negative
    return table.set_column(len(FIELDS), "label", pa.array(clicked_N.astype(np.int8)))


def _with_negatives(positives: pa.Table, others: list[pa.Table], draw: np.random.Generator) -> pa.Table:
    """The train part, in an order drawn too."""
    repeated = draw.choice(positives.num_rows, NUM_POSITIVES["train"] - positives.num_rows, replace=False)
    fields_PF = _fields(positives)
    fields_PF = np.concatenate([fields_PF, fields_PF[repeated]])
    all_PF = np.concatenate([fields_PF, *(_fields(table, label=1) for table in others)])
    fields_NF = _missing(all_PF, np.concatenate([_fields(table, label=0) for table in others]))
    fields_NF[:, _ITEM] = _unused(fields_NF[:, _USER], all_PF[:, [_USER, _ITEM]], draw)
    labels = np.repeat([1, 0], [len(fields_PF), len(fields_NF)]).astype(np.int8)
    order = draw.permutation(len(labels))
    fields = np.concatenate([fields_PF, fields_NF])[order]
    return pa.table({**{name: fields[:, at] for at, name in enumerate(FIELDS)}, "label": labels[order]})


def _fields(table: pa.Table, label: int | None = None) -> Ints:
    """The fields side by side; of one label alone where it is given."""
    fields_NF = np.stack([table[name].to_numpy() for name in FIELDS], axis=1)
    return fields_NF if label is None else fields_NF[table["label"].to_numpy() == label]


def _missing(positives_PF: Ints, negatives_NF: Ints) -> Ints:
    """Users and contexts of two negatives a positive, less those that there are; their items are to be drawn."""
    both = np.concatenate([positives_PF, negatives_NF])
    context = np.delete(both - both.min(axis=0), _ITEM, axis=1)
    codes = np.ravel_multi_index(tuple(context.T), tuple(context.max(axis=0) + 1))  # one number for all fields
    _, first, kind = np.unique(codes, return_index=True, return_inverse=True)
    wanted = 2 * np.bincount(kind[: len(positives_PF)], minlength=len(first))
    there = np.bincount(kind[len(positives_PF) :], minlength=len(first))
    return both[np.repeat(first, np.maximum(wanted - there, 0))]


def _unused(users_N: Ints, used: Ints, draw: np.random.Generator) -> Ints:
    """For each user an item that the user never used, each of those equally likely: drawn again until it is one."""
    items = np.unique(used[:, 1])
    scale = int(used.max()) + 1
    taken = np.unique(used[:, 0] * scale + used[:, 1])
    found_N = draw.choice(items, len(users_N))
    while len(again := np.flatnonzero(np.isin(users_N * scale + found_N, taken))):
        found_N[again] = draw.choice(items, len(again))
    return found_N


def _check(split: str, table: pa.Table, folder: Path) -> None:
    num_positives = int(table["label"].to_numpy().sum())
    if (table.num_rows, num_positives) != (COUNTS[split], NUM_POSITIVES[split]):
        raise DataError(
            f"{folder}: {split} has {table.num_rows:,} examples, {num_positives:,} positive; published are "
            f"{COUNTS[split]:,} and {NUM_POSITIVES[split]:,}: get the files again"
        )
