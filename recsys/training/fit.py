"""The joined examples of a recorded stream: shared out by time to train, valid and test, and cut into batches.

Or learned in the order in which they were recorded, of an archive with the very batches: what an online run learned,
again. What trains in epochs is ``epochs``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import pyarrow as pa

from recsys.batches.batch import LabelledBatch
from recsys.batches.examples import ExampleRows, example_schema, to_batch
from recsys.batches.join import JoinConfig
from recsys.batches.joined import JoinedStream
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.features.state import FeatureState
from recsys.fields import Above, Below
from recsys.streams.dead_letters import DeadLetters
from recsys.streams.source import Source
from recsys.training.judging import Judged
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.trainer import Learner, Trainer

_HELD_OUT = 0x4E1D  # apart from the orders of training


@dataclass(frozen=True)
class Joined:
    """A recorded stream joined to its end."""

    examples: pa.Table  # in emission order
    features: FeatureState  # as of the end
    time_ms: int


@dataclass(frozen=True, kw_only=True)
class Splits:
    """How the examples are shared out by time: first to learn from, then to choose by, last to judge by."""

    valid: Annotated[float, Above(0), Below(1)] = 0.1
    test: Annotated[float, Above(0), Below(1)] = 0.1

    def __post_init__(self) -> None:
        if not self.valid + self.test < 1:
            raise ConfigError(
                f"valid={self.valid} and test={self.test} leave nothing to train on; their sum must be below 1"
            )

    def cut(self, examples: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
        """(train, valid, test); DataError where one would be empty."""
        num = examples.num_rows
        first, second = int(num * (1 - self.valid - self.test)), int(num * (1 - self.test))
        parts = examples.slice(0, first), examples.slice(first, second - first), examples.slice(second)
        if not all(part.num_rows for part in parts):
            raise DataError(f"{num} examples are too few to split into train, valid and test; raise replay.limit")
        return parts


def join_recorded(
    events: Source, partitions: int, config: JoinConfig, features: Sequence[Feature], dead_letters: Path
) -> Joined:
    """Join a bounded source in this process: the same joiner, features as of the same times, as online."""
    parts, ended = [], 0
    with closing(DeadLetters(dead_letters)) as aside:
        stream = JoinedStream(
            events, partitions=range(partitions), config=config, features=features, dead_letters=aside
        )
        while ended < partitions:
            for _, part in stream.poll(range(partitions)):
                if isinstance(part, ExampleRows):
                    parts.append(part.rows)
                else:
                    ended += 1
        stream.close()
    table = pa.Table.from_batches(parts, example_schema(features))
    examples = table.sort_by([("emitted_ms", "ascending"), ("request_id", "ascending")])
    return Joined(examples, stream.features, stream.time_ms)


class Examples(Protocol):
    """What is trained or judged on: joined examples, or files of plain ones."""

    @property
    def num_examples(self) -> int:
        """How many there are."""

    def batches(self, size: int, *, seed: Sequence[int] | None = None, start: int = 0) -> Iterator[LabelledBatch]:
        """All in batches of ``size``, from row ``start`` of an order drawn by ``seed``; in their own without."""


@dataclass(frozen=True)
class JoinedExamples:
    """Joined examples in memory, as Examples."""

    rows: pa.Table
    features: Sequence[Feature]

    @property
    def num_examples(self) -> int:
        """See Examples."""
        return int(self.rows.num_rows)

    def batches(self, size: int, *, seed: Sequence[int] | None = None, start: int = 0) -> Iterator[LabelledBatch]:
        """See Examples."""
        order = None if seed is None else np.random.default_rng(list(seed))
        return batches_of(self.rows, self.features, size, order, start)


def batches_of(
    examples: pa.Table,
    features: Sequence[Feature],
    size: int,
    order: np.random.Generator | None = None,
    start: int = 0,
) -> Iterator[LabelledBatch]:
    """Batches of ``size`` (the last may be smaller) from row ``start`` on; shuffled where ``order`` is given."""
    rows = np.arange(examples.num_rows) if order is None else order.permutation(examples.num_rows)
    for at in range(start, len(rows), size):
        yield to_batch(examples.take(rows[at : at + size]), features)


def held_out_batches(examples: Examples, size: int, seed: int, num_steps: int) -> Iterator[LabelledBatch]:
    """Batches without an end, each pass in an order of its own, from where ``num_steps`` of them have been taken."""
    of_pass = -(-examples.num_examples // size)
    while True:
        number, taken = divmod(num_steps, of_pass)
        for batch in examples.batches(size, seed=[seed, number, _HELD_OUT], start=taken * size):
            yield batch
            num_steps += 1


def recorded_batches(archived: pa.Table, features: Sequence[Feature]) -> Iterator[LabelledBatch]:
    """The batches that were learned: one for each ``step`` of an archive, its workers' parts one after the other."""
    steps_N = archived.column("step").to_numpy()
    starts = [0, *(1 + np.flatnonzero(np.diff(steps_N))).tolist()]
    for start, end in pairwise([*starts, len(steps_N)]):
        yield to_batch(archived.slice(start, end - start), features)


def learn_in_order(
    trainer: Trainer, batches: Iterable[LabelledBatch], on_step: Callable[[int], None]
) -> ProgressiveMetrics:
    """One pass, each batch predicted, then learned; returns the predictions. Callback: (step)."""
    predicted = ProgressiveMetrics()
    for batch, upcoming in pairwise(chain(batches, [None])):
        assert batch is not None
        result = trainer.step(batch, upcoming=upcoming)
        predicted.add(time_ms=batch.times_ms_B, labels=batch.labels_B, probabilities=result.probabilities_B)
        on_step(trainer.num_steps)
    return predicted


def evaluate(trainer: Learner, examples: Examples, batch_size: int = 4096) -> dict[str, float]:
    """AUC, logloss, calibration, … of predictions on ``examples``, learning nothing; with users, their gAUC."""
    judged = Judged()
    for batch in examples.batches(batch_size):
        judged.add(batch, trainer.predict(batch))
    return judged.figures()
