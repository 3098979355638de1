"""Slices of a stream: whom an example is about, as the model knew them when it predicted.

``new_user``: no example of this user was learned before; ``new_item``: none of this item; ``returning``: both were
known. An example may be of a new user and a new item at once. Learned before means in an earlier step: the examples of
one step are predicted from the same rows, so all of a new user's first step are new. The log of predictions says this
by itself, for any number of workers and after every return to a checkpoint, and costs training nothing; what was
learned before the run began (``start_from=``) is written beside it.

Shape suffixes: N predictions of a run in stream order, S those of one slice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.training.metrics import Bools, Curve, ProgressiveMetrics

SLICES = ("new_user", "new_item", "returning")
OF = ("user", "item")
_SEEN_FILE = "seen-{of}.arrow"
_EXAMPLES_PER_WINDOW, _MOST_WINDOWS = 250, 20  # an AUC of 250 examples has a standard error of about 0.035


def are_new(steps_N: npt.NDArray[np.int64], ids_N: pa.StringArray, seen: pa.Array) -> Bools:
    """Of each prediction, whether no earlier step learned an example of its id, which is not among ``seen`` either.

    >>> are_new(np.array([1, 1, 2]), pa.array(["7", "7", "7"]), pa.array([], pa.string())).tolist()
    [True, True, False]
    """
    encoded_N = ids_N.dictionary_encode()
    codes_N = encoded_N.indices.to_numpy()
    first = np.full(len(encoded_N.dictionary), np.iinfo(np.int64).max)
    np.minimum.at(first, codes_N, steps_N)
    first[pc.is_in(encoded_N.dictionary, value_set=seen).to_numpy(zero_copy_only=False)] = -1
    return np.asarray(steps_N == first[codes_N])


@dataclass(frozen=True)
class Slice:
    """The predictions of one slice, and where in the whole stream they are."""

    metrics: ProgressiveMetrics
    places_S: npt.NDArray[np.int64]  # counted from 1

    def course(self) -> Curve:
        """Window by window, each of equally many examples of the slice; ``num_examples`` is of the whole stream."""
        windows = self.metrics.windows(int(np.clip(len(self.places_S) // _EXAMPLES_PER_WINDOW, 1, _MOST_WINDOWS)))
        return windows.at([int(self.places_S[num - 1]) for num in windows.num_examples])


def by_slice(predictions: pa.Table) -> dict[str, Slice]:
    """The slices of what ``read_predictions`` gives."""
    return {name: _slice(predictions, within_N) for name, within_N in masks(predictions).items()}


def masks(predictions: pa.Table) -> dict[str, Bools]:
    """Which predictions each slice holds."""
    new_user_N, new_item_N = (predictions.column(f"new_{of}").to_numpy() for of in OF)
    return {"new_user": new_user_N, "new_item": new_item_N, "returning": ~(new_user_N | new_item_N)}


def _slice(predictions: pa.Table, within_N: Bools) -> Slice:
    times_S, labels_S, probabilities_S, keep_rates_S = (
        predictions.column(name).to_numpy()[within_N] for name in ("time_ms", "label", "probability", "keep_rate")
    )
    metrics = ProgressiveMetrics()
    metrics.add(time_ms=times_S, labels=labels_S, probabilities=probabilities_S, weights=1 / keep_rates_S)
    return Slice(metrics, 1 + np.flatnonzero(within_N))


# --- what was learned before the run began


def write_seen(folder: Path, seen: Mapping[str, pa.Array]) -> None:
    """Leave beside a run's predictions whom it knew from the start: ``id_text`` of users and items, once each."""
    folder.mkdir(parents=True, exist_ok=True)
    for of in OF:
        with pa.OSFile(str(folder / _SEEN_FILE.format(of=of)), "wb") as file:
            table = pa.table({"id": pc.unique(seen[of])})
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)


def read_seen(folder: Path) -> dict[str, pa.Array]:
    """What ``write_seen`` left; nobody where it left nothing."""
    return {of: _read_ids(folder / _SEEN_FILE.format(of=of)) for of in OF}


def _read_ids(path: Path) -> pa.Array:
    if not path.exists():
        return pa.array([], pa.string())
    with pa.ipc.open_file(path.read_bytes()) as reader:
        return reader.read_all().column("id").combine_chunks()
