"""Which user had to do with which item: what graphs are clustered of, and retrieval is trained and judged on.

Published splits are read as they are, their counts checked; likes of a prepared data set and clicks of an archive are
interactions too. Ids are 0 and more.

Shape suffixes: E pairs, U users.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recsys.datasets.interaction_files import InteractionFiles
from recsys.datasets.prepared import open_prepared
from recsys.errors import DataError

Ids = npt.NDArray[np.int64]
_MOST_IDS_PER_PAIR = 100  # ids far apart would make a map of holes


class Pairs(NamedTuple):
    """Users and items, pair by pair."""

    users_E: Ids
    items_E: Ids


@dataclass(frozen=True)
class Interactions:
    """A data set split into what is learned, chosen by and judged by; no pair is in two of them."""

    name: str
    train: Pairs
    valid: Pairs
    test: Pairs
    num_users: int
    num_items: int


def read_interactions(files: InteractionFiles, data_folder: Path | None, seed: int) -> Interactions:
    """The interactions that ``files`` declare, ``data_folder`` being RECSYS_DATA.

    DataError for files that are missing, or not as they were published.
    """
    train, valid, test = _published(files, data_folder) if files.train else _recorded(files)
    sizes = [
        declared or 1 + max(int(pairs[side].max(initial=-1)) for pairs in (train, test, valid or test))
        for side, declared in enumerate((files.num_users, files.num_items))
    ]
    _check(files, train, test, sizes)
    if valid is None:
        is_valid_E = _chosen(train, files.valid_fraction, seed)
        valid = Pairs(train.users_E[is_valid_E], train.items_E[is_valid_E])
    kept_E = ~np.isin(_codes(train, sizes), _codes(valid, sizes))
    train = Pairs(train.users_E[kept_E], train.items_E[kept_E])
    return Interactions(files.name, train, valid, test, *sizes)


def titles_of(files: InteractionFiles) -> dict[int, str]:
    """The titles of a prepared data set's items; other files have none."""
    return open_prepared(files.folder, files.name).titles() if files.format == "prepared" else {}


def _published(files: InteractionFiles, data_folder: Path | None) -> tuple[Pairs, Pairs | None, Pairs]:
    if data_folder is None:
        raise DataError(
            f"RECSYS_DATA is not set; set it to the folder that has {files.folder}, the data set {files.name}"
        )
    read = _lists if files.format == "lists" else _triples
    folder = data_folder / files.folder
    assert files.train is not None and files.test is not None
    valid = None if files.valid is None else read(folder / files.valid)
    return read(folder / files.train), valid, read(folder / files.test)


def _lists(path: Path) -> Pairs:
    """Parquet with a user and a list of items a row."""
    table = _told(path, lambda: pq.read_table(path, columns=["user", "items"]))
    items = table["items"].combine_chunks()
    lengths = pc.list_value_length(items).to_numpy()
    return Pairs(
        np.repeat(table["user"].to_numpy().astype(np.int64), lengths), items.flatten().to_numpy().astype(np.int64)
    )


def _triples(path: Path) -> Pairs:
    """Text with a user, an item and a weight a line, by tabs."""
    options = pyarrow.csv.ReadOptions(column_names=["user", "item", "weight"], use_threads=False)
    table = _told(path, lambda: pyarrow.csv.read_csv(path, options, pyarrow.csv.ParseOptions(delimiter="\t")))
    return Pairs(table["user"].to_numpy().astype(np.int64), table["item"].to_numpy().astype(np.int64))


def _recorded(files: InteractionFiles) -> tuple[Pairs, None, Pairs]:
    """Of a prepared data set, an archive or plain examples: (the first part, nothing, the rest)."""
    read = {"prepared": _liked, "archive": _archived, "examples": _positives}
    table = read[files.format](files)
    pairs = Pairs(table["user_id"].to_numpy(), table["item_id"].to_numpy())
    if len(pairs.users_E) and min(pairs.users_E.min(), pairs.items_E.min()) < 0:
        raise DataError(f"{files.folder} has ids below 0; a bucket map needs ids from 0 on")
    largest = max(int(ids_E.max(initial=0)) for ids_E in pairs)
    if largest > _MOST_IDS_PER_PAIR * max(len(pairs.users_E), 1):
        raise DataError(f"{files.folder} has id {largest:,} among {len(pairs.users_E):,} pairs; number ids from 0 on")
    _, first_times = np.unique(pairs.users_E * (1 + largest) + pairs.items_E, return_index=True)
    once_E = np.sort(first_times)
    cut = int(files.first * len(once_E))
    learned, later = (Pairs(pairs.users_E[part], pairs.items_E[part]) for part in (once_E[:cut], once_E[cut:]))
    return learned, None, later


def _liked(files: InteractionFiles) -> pa.Table:
    """The likes of a prepared data set in time order."""
    prepared = open_prepared(files.folder, files.name)
    shown = pq.read_table(prepared.impressions, columns=["request_id", "user_id", "item_id"])
    likes = pq.read_table(prepared.actions, columns=["request_id", "time_ms"])
    joined = likes.join(shown, "request_id", join_type="inner", use_threads=False)
    return joined.sort_by([("time_ms", "ascending"), ("request_id", "ascending")])


def _archived(files: InteractionFiles) -> pa.Table:
    """The positive examples of an online run's archive in time order."""
    columns = ["user_id", "item_id", "label", "emitted_ms"]
    paths = sorted(files.folder.glob("hour=*/*.parquet"))
    if not paths:
        raise DataError(f"{files.folder} has no hour=*/*.parquet: no archive of an online run; name its folder archive")
    parts = [_told(path, lambda path=path: pq.ParquetFile(path).read(columns=columns)) for path in paths]
    table = pa.concat_tables(parts)
    positive = table.filter(pc.greater(table["label"], 0.0)).sort_by([("emitted_ms", "ascending")])
    try:
        return pa.table({name: pc.cast(positive[name], pa.int64()) for name in ("user_id", "item_id")})
    except pa.ArrowInvalid as error:
        raise DataError(f"{files.folder} has ids that are texts; a bucket map needs numbers from 0 on") from error


def _positives(files: InteractionFiles) -> pa.Table:
    """The positive examples of the train part of prepared plain examples, which have a user and an item."""
    path = files.folder / "train.parquet"
    names = set(_told(path, lambda: pq.read_schema(path)).names)
    if missing := [name for name in ("user", "item", "label") if name not in names]:
        raise DataError(f"{path} has no column {' and '.join(missing)}; a graph is of features named user and item")
    table = _told(path, lambda: pq.read_table(path, columns=["user", "item", "label"]))
    positive = table.filter(pc.greater(table["label"], 0.0))
    if not all(pa.types.is_integer(positive.schema.field(name).type) for name in ("user", "item")):
        raise DataError(f"{path} has bags of users or of items; a graph is of one user and one item an example")
    return positive.rename_columns(["user_id", "item_id", "label"])


def _told(path: Path, read):  # type: ignore[no-untyped-def]
    """What ``read`` reads; DataError where that fails."""
    try:
        return read()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; put the published file there, or mend RECSYS_DATA") from error
    except pa.ArrowException as error:
        raise DataError(f"{path} can not be read ({str(error).splitlines()[0]}); download it again") from error


def _check(files: InteractionFiles, train: Pairs, test: Pairs, sizes: list[int]) -> None:
    """DataError unless counts are those that were published."""
    for what, pairs, expected in (("train", train, files.num_train), ("test", test, files.num_test)):
        if expected is not None and len(pairs.users_E) != expected:
            raise DataError(
                f"data set {files.name!r}: {len(pairs.users_E):,} {what} pairs found, {expected:,} are published; "
                "download it again"
            )
        for name, ids_E, size in zip(("user", "item"), pairs, sizes, strict=True):
            if len(ids_E) and not (ids_E.min() >= 0 and ids_E.max() < size):
                raise DataError(
                    f"data set {files.name!r}: {what} has {name} {ids_E.max()} of {size:,}; raise num_{name}s"
                )


def _chosen(train: Pairs, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which train pairs are for validation: that fraction of each user's, rounded down, by chance."""
    chance_E = np.random.default_rng([seed, 0xA1]).random(len(train.users_E))
    order_E = np.lexsort((chance_E, train.users_E))
    counts_U = np.bincount(train.users_E)
    starts_U = np.concatenate([[0], np.cumsum(counts_U)[:-1]])
    place_E = np.arange(len(order_E)) - np.repeat(starts_U, counts_U)  # of a pair among its user's
    chosen_E = np.zeros(len(order_E), bool)
    chosen_E[order_E] = place_E < np.repeat((fraction * counts_U).astype(np.int64), counts_U)
    return chosen_E


def _codes(pairs: Pairs, sizes: list[int]) -> Ids:
    return pairs.users_E * sizes[1] + pairs.items_E
