"""From a column of raw values to what a model takes: ids or numbers.

What a column has to know (its ids, its mean) it learns from the training part, batch by batch; nothing of the others.

Shape suffixes: N values of a column, V ids of a vocabulary.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError
from recsys.features.declarations import Feature
from recsys.hashing import hash_string

_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_MERGE_ABOVE = 1 << 20  # values counted in parts before they are put together
_BETWEEN = "|"  # the values of a bag in a text file


def column_of(feature: Feature) -> "NumberColumn | IdColumn":
    """What encodes a feature's column."""
    return NumberColumn(feature) if feature.kind == "number" else IdColumn(feature)


def text_type(feature: Feature) -> pa.DataType | None:
    """What a feature's column is read as from a text file; None: guessed from its first lines."""
    if feature.kind == "number" or feature.bucketing is not None:
        return pa.float64()
    return pa.string() if feature.kind != "id" or feature.vocabulary or feature.min_count is not None else None


class NumberColumn:
    """Numbers as float32, scaled as declared; an absent one is 0 after scaling, NaN and infinities are errors."""

    num_ids: int | None = None

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self._count, self._mean, self._squares = 0, 0.0, 0.0  # of what was learned (Welford)

    def learn(self, column: pa.Array) -> None:
        """Take a batch of the training part into the mean and the deviation."""
        if self.feature.scaling != "standard":
            return
        values_N = _numbers(column.drop_null(), self.feature)
        if not len(values_N):
            return
        total = self._count + len(values_N)
        apart = values_N.mean() - self._mean
        self._squares += values_N.var() * len(values_N) + apart**2 * self._count * len(values_N) / total
        self._mean += apart * len(values_N) / total
        self._count = total

    def encode(self, column: pa.Array) -> pa.Array:
        """The numbers (N,) as float32."""
        values_N = _numbers(column, self.feature)
        absent_N = np.isnan(values_N)
        if self.feature.scaling == "log":
            values_N = np.sign(values_N) * np.log1p(np.abs(values_N))
        elif self.feature.scaling == "standard":
            deviation = np.sqrt(self._squares / max(self._count, 1))
            values_N = (values_N - self._mean) / (deviation if deviation > 0 else 1.0)
        return pa.array(np.where(absent_N, 0, values_N).astype(np.float32))

    def learned(self) -> dict[str, Any]:
        """What was learned, as plain values."""
        deviation = float(np.sqrt(self._squares / max(self._count, 1)))
        return {"mean": self._mean, "deviation": deviation} if self.feature.scaling == "standard" else {}


class IdColumn:
    """Ids as int64, or lists of them: numbered by frequency, looked up in listed words, or taken as they are.

    As they are, integers keep their value, negative ones too, and strings are hashed, as on a stream.
    """

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self._values: pa.Array | None = None if feature.vocabulary is None else pa.array(feature.vocabulary)
        self._first = 0  # the id of the first value; with min_count, id 0 is what is not among them
        self._counted: list[pa.Table] = []
        self._num_waiting = 0

    @property
    def num_ids(self) -> int | None:
        """How many ids there can be; None where any is taken."""
        return None if self._values is None else self._first + len(self._values)

    @property
    def values(self) -> pa.Array | None:
        """The raw values in the order of their ids."""
        return self._values

    def learn(self, column: pa.Array) -> None:
        """Count the values of a batch of the training part."""
        if self.feature.min_count is None:
            return
        counts = pc.value_counts(self._flat(column))
        table = pa.table({"value": counts.field("values"), "count": counts.field("counts")})
        self._counted.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting > _MERGE_ABOVE:
            self._counted = [self._merged()]
            self._num_waiting = 0

    def finish(self) -> None:
        """Number what was counted: the most frequent first, equal ones in their own order.

        DataError where they are more than ``num_embeddings``.
        """
        if self.feature.min_count is None:
            return
        table = self._merged()
        table = table.filter(pc.greater_equal(table["count"], self.feature.min_count))
        table = table.sort_by([("count", "descending"), ("value", "ascending")])
        self._values, self._first, self._counted = table["value"].combine_chunks(), 1, []
        size, num_ids = self.feature.num_embeddings, self.num_ids
        if size is not None and num_ids is not None and num_ids > size:
            raise DataError(
                f"feature {self.feature.name!r}: {num_ids - 1:,} values occur {self.feature.min_count} times or more, "
                f"with the unknown {num_ids:,} ids, but num_embeddings is {size:,}; raise it, or min_count"
            )

    def encode(self, column: pa.Array) -> pa.Array:
        """Ids (N,) as int64, null where there is none; of bags, lists of them."""
        ids = self._encoded(self._flat(column))
        if self.feature.kind == "id":
            return ids
        lists = self._lists(column)
        if ids.null_count:  # words that are not listed are left out
            kept_N = ids.is_valid().to_numpy(zero_copy_only=False)
            offsets = np.concatenate([[0], np.cumsum(kept_N)])[lists.offsets.to_numpy() - lists.offsets[0].as_py()]
            return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), ids.drop_null())
        start = lists.offsets[0].as_py()
        return pa.ListArray.from_arrays(pc.subtract(lists.offsets, pa.scalar(start, pa.int32())), ids)

    def learned(self) -> dict[str, Any]:
        """What was learned, as plain values; the ids themselves are in a file of their own."""
        return {"num_ids": self.num_ids}

    def _encoded(self, flat: pa.Array) -> pa.Array:
        if self._values is None:
            return _as_they_are(flat, self.feature)
        places = pc.index_in(flat.cast(self._values.type), value_set=self._values)
        if self.feature.min_count is None:
            return places.cast(pa.int64())
        return pc.fill_null(pc.add(places.cast(pa.int64()), 1), 0)

    def _merged(self) -> pa.Table:
        table = pa.concat_tables(self._counted).group_by("value").aggregate([("count", "sum")])
        return table.rename_columns(["value", "count"])

    def _flat(self, column: pa.Array) -> pa.Array:
        """The raw values one after the other, integers as int64 and words as strings."""
        if self.feature.bucketing == "log_squared":
            return _log_squared(column, self.feature)
        flat = column if self.feature.kind == "id" else self._lists(column).flatten()
        kind = flat.type
        if pa.types.is_dictionary(kind):
            flat, kind = flat.dictionary_decode(), kind.value_type
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
            return self._cast(flat, pa.int64())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return flat.cast(pa.string())
        raise DataError(
            f"{_what(self.feature)}: values of type {kind} are no ids; ids are integers or strings: declare it "
            "kind: number, or bucketing: log_squared"
        )

    def _cast(self, flat: pa.Array, kind: pa.DataType) -> pa.Array:
        try:
            return flat.cast(kind)
        except pa.ArrowInvalid as error:
            raise DataError(f"{_what(self.feature)}: {error}; ids are int64, or strings") from error

    def _lists(self, column: pa.Array) -> pa.ListArray:
        """A bag's column as lists, the first ``max_length`` of each; text is parted at |, none is an empty list."""
        if pa.types.is_string(column.type):
            parts = pc.split_pattern(column, _BETWEEN)
            column = pc.if_else(pc.equal(column, ""), pa.scalar([], parts.type), parts)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise DataError(f"{_what(self.feature)}: {column.type} is no list; declare it kind: id")
        column = pc.fill_null(column, pa.scalar([], column.type))
        lists = pc.list_slice(column, 0, self.feature.max_length)
        return lists.cast(pa.list_(lists.type.value_type))


def labels_of(column: pa.Array, name: str, where: str) -> pa.Array:
    """Labels (N,) as float32; DataError for what is not 0 or 1."""
    if pa.types.is_string(column.type):  # some of them are no numbers, or all would have been read as such
        labels_N = np.array([{"0": 0.0, "1": 1.0}.get(text, np.nan) for text in column.to_pylist()])
    else:
        labels_N = column.cast(pa.int8() if pa.types.is_boolean(column.type) else pa.float64()).to_numpy(
            zero_copy_only=False
        )
    wrong = np.flatnonzero(~((labels_N == 0) | (labels_N == 1)))
    if len(wrong):
        value = column[int(wrong[0])].as_py()
        raise DataError(f"{where}: label {value!r} in column {name!r}; labels are 0 or 1, and never absent")
    return pa.array(labels_N.astype(np.float32))


def _numbers(column: pa.Array, feature: Feature) -> npt.NDArray[np.float64]:
    """Values as float64, NaN where they are null; DataError for any that is no finite float32 of its own."""
    try:
        values_N = np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowException as error:
        raise DataError(f"{_what(feature)}: {str(error).splitlines()[0]}; declare it kind: id") from error
    given_N = column.is_valid().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(given_N & ~(np.abs(values_N) <= _MAX_FLOAT32))
    if len(wrong):
        raise DataError(
            f"{_what(feature)}: {values_N[wrong[0]]} is no finite float32; leave it empty (null) where it is not known"
        )
    return values_N


def _log_squared(column: pa.Array, feature: Feature) -> pa.Array:
    """⌊ln(x)²⌋ of numbers above 2, ⌊x⌋ of others, null of null."""
    values_N = _numbers(column, feature)
    with np.errstate(invalid="ignore"):
        buckets_N = np.floor(np.where(values_N > 2, np.log(np.maximum(values_N, 2)) ** 2, values_N))
    absent_N = np.isnan(values_N)
    return pa.array(np.where(absent_N, 0, buckets_N).astype(np.int64), mask=absent_N)


def _as_they_are(flat: pa.Array, feature: Feature) -> pa.Array:
    if pa.types.is_integer(flat.type):
        return flat
    encoded = flat.dictionary_encode()
    hashed = pa.array([hash_string(word) for word in encoded.dictionary.to_pylist()], pa.int64())
    return hashed.take(encoded.indices)


def _what(feature: Feature) -> str:
    return f"feature {feature.name!r} ({feature.source})"
