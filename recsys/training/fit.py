"""Batch training: the joined examples of a recorded stream, in shuffled epochs, judged on what came later.

Or in the order in which they were recorded, of an archive with the very batches: what an online run learned, again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated

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
from recsys.training import metrics
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.trainer import Trainer


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


def batches_of(
    examples: pa.Table, features: Sequence[Feature], size: int, order: np.random.Generator | None = None
) -> Iterator[LabelledBatch]:
    """Batches of ``size`` (the last may be smaller); shuffled where ``order`` is given."""
    rows = np.arange(examples.num_rows) if order is None else order.permutation(examples.num_rows)
    for start in range(0, len(rows), size):
        yield to_batch(examples.take(rows[start : start + size]), features)


def fit(
    trainer: Trainer,
    train: pa.Table,
    valid: pa.Table,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    on_step: Callable[[int, int], None],
    on_epoch: Callable[[int, dict[str, float]], None],
) -> list[dict[str, float]]:
    """Train for some epochs; returns each one's metrics on ``valid``. Callbacks: (step, steps), (epoch, metrics)."""
    features = trainer.recommender.features
    steps = epochs * -(-train.num_rows // batch_size)
    history = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch])
        for _ in trainer.steps(batches_of(train, features, batch_size, order)):
            on_step(trainer.num_steps, steps)
        history.append(evaluate(trainer, valid))
        on_epoch(epoch, history[-1])
    return history


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


def evaluate(trainer: Trainer, examples: pa.Table, batch_size: int = 4096) -> dict[str, float]:
    """AUC, logloss, calibration, … of predictions on ``examples``, learning nothing."""
    features = trainer.recommender.features
    scored = [(batch.labels_B, trainer.predict(batch)) for batch in batches_of(examples, features, batch_size)]
    labels_N, probabilities_N = (np.concatenate(part) for part in zip(*scored, strict=True))
    return metrics.summary(labels_N, probabilities_N)
