"""What passes to a model: ids in bags, numbers, and (in training) labels. No raw events past here.

Shape suffixes: B examples, N ids of one feature over the batch, M numeric features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.declarations import Feature
from recsys.features.extract import Values
from recsys.hashing import Floats, Keys


class Bag(NamedTuple):
    """Ids of one feature: example b has ``ids_N[offsets[b]:offsets[b + 1]]``; none, one or many."""

    ids_N: Keys
    offsets: npt.NDArray[np.int64]  # B + 1
    weights: Floats | None = None  # one an id, for tables that pool by sum

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[int]]) -> "Bag":
        """A bag from one list of ids an example.

        >>> Bag.of_lists([[7], [], [8, 9]]).offsets.tolist()
        [0, 1, 1, 3]
        """
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        return cls(np.array([id_ for ids in lists for id_ in ids], np.int64), offsets)

    def part(self, start: int, stop: int) -> "Bag":
        """Examples ``start`` to ``stop`` (exclusive), on the same memory.

        >>> Bag.of_lists([[7], [], [8, 9]]).part(1, 3).ids_N.tolist()
        [8, 9]
        """
        first, last = self.offsets.item(start), self.offsets.item(stop)
        weights = None if self.weights is None else self.weights[first:last]
        return Bag(self.ids_N[first:last], self.offsets[start : stop + 1] - first, weights)


@dataclass(frozen=True)
class Batch:
    """Examples side by side, one column a feature."""

    bags: Mapping[str, Bag]
    numbers_BM: Floats

    @property
    def num_examples(self) -> int:
        """B."""
        return len(self.numbers_BM)


class KeepRates(NamedTuple):
    """With what probabilities sampling kept examples: each its own, and the two that its stream's odds changed by."""

    own_B: Floats
    positives_B: Floats
    negatives_B: Floats

    def part(self, start: int, stop: int) -> "KeepRates":
        """Those of examples ``start`` to ``stop`` (exclusive), on the same memory."""
        return KeepRates(*(rates_B[start:stop] for rates_B in self))


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """A batch to learn from, with what evaluation and recovery need to know of each example."""

    labels_B: Floats
    weights_B: Floats
    request_ids: Sequence[str]
    user_ids: Sequence[int | str]
    item_ids: Sequence[int | str]
    times_ms_B: npt.NDArray[np.int64]
    read_at_ms_B: npt.NDArray[np.int64]
    rates: KeepRates | None = None  # None: nothing was left out

    @property
    def keep_rates_B(self) -> Floats:
        """The probability with which each example came here: it stands for 1 / that many."""
        return np.ones(self.num_examples, np.float32) if self.rates is None else self.rates.own_B

    def part(self, start: int, stop: int) -> "LabelledBatch":
        """Examples ``start`` to ``stop`` (exclusive), on the same memory."""
        columns = {c.name: getattr(self, c.name) for c in fields(self) if c.name not in ("bags", "rates")}
        return LabelledBatch(
            bags={name: bag.part(start, stop) for name, bag in self.bags.items()},
            rates=None if self.rates is None else self.rates.part(start, stop),
            **{name: values[start:stop] for name, values in columns.items()},
        )


def candidate_batch(features: Sequence[Feature], shared: Values, items: Sequence[Values]) -> Batch:
    """One example a candidate: the user's and the clock's values are shared, the items' their own.

    >>> features = [Feature(name=of, kind="id", source=f"{of}.id") for of in ("user", "item")]
    >>> candidate_batch(features, {"user": [7]}, [{"item": [1]}, {"item": [2]}]).bags["user"].ids_N.tolist()
    [7, 7]
    """
    bags, numbers = {}, []
    for feature in features:
        values = [shared[feature.name]] * len(items) if feature.name in shared else [v[feature.name] for v in items]
        if feature.kind == "number":
            numbers.append(np.array(values, np.float32))
        else:
            bags[feature.name] = Bag.of_lists(values)  # type: ignore[arg-type]
    numbers_BM = np.stack(numbers, axis=1) if numbers else np.zeros((len(items), 0), np.float32)
    return Batch(bags, numbers_BM)
