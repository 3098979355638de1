"""Worker actors: read batches, predict, learn, push; report."""

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.batches.batch import LabelledBatch
from recsys.batches.batches import BatchStream, ExampleFeed, TopicFeed
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import ShardedRows
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.joiner import JoinerFeed
from recsys.runtime.shards import RayShard
from recsys.streams.source import Position
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.predictions import PredictionLog
from recsys.training.trainer import Trainer

_RECENT = 5_000  # examples that the live AUC is taken over
_LOOK_SECONDS = 0.5  # how old a status may be


class WorkerActor:
    """Trains on its partitions' examples over the parameter server, until they end or it is stopped.

    ``status``, ``mark`` and ``published`` are asked by others while ``run`` trains: they touch nothing that it changes
    halfway. Figures are made by the training thread and replaced as a whole.
    """

    def __init__(
        self,
        events: Events,
        joiners: dict[int, Any],
        examples_from: Position,
        blueprint: Blueprint,
        shards: Sequence[RayShard],
        predictions: Path,
        max_examples: int,
        max_seconds: float | None,
        idle_seconds: float | None,
    ) -> None:
        torch.set_num_threads(1)  # cores are shared with the shards, and results do not depend on their number
        recommender = Recommender(blueprint)
        self._trainer = Trainer(recommender, ShardedRows(recommender.groups, shards))
        self._feed = _feed(events, joiners, examples_from)
        self._batches = BatchStream(
            self._feed,
            blueprint.features,
            max_examples=max_examples,
            max_seconds=max_seconds,
            idle_seconds=idle_seconds,
        )
        self._log = PredictionLog(predictions)
        self._recent = ProgressiveMetrics()
        self._unpublished: deque[tuple[int, np.ndarray]] = deque()  # (step, when its events were read)
        self._delays_ms: list[np.ndarray] = []
        self._num_examples = self._num_unknown = 0
        self._time_ms = -1
        self._stopping = False
        self._look()

    def ready(self) -> None:
        """Answers once the worker is up."""

    def run(self) -> None:
        """Train until the stream ends, or ``stop``."""
        try:
            while not self._batches.finished and not self._stopping:
                for batch in self._batches.poll():
                    self._step(batch)
                if time.monotonic() - self._looked_at > _LOOK_SECONDS:
                    self._look()
        finally:
            self._look()
            self._trainer.store.flush()
            self._log.close()

    def stop(self) -> None:
        """End ``run`` after the current batch."""
        self._stopping = True

    def mark(self) -> tuple[int, int]:
        """(steps done, event time reached): what a publication that starts now will contain."""
        steps, time_ms = self._trainer.num_steps, self._time_ms
        self._trainer.store.flush()
        return steps, time_ms

    def published(self, steps: int, at_ms: float) -> None:
        """Everything up to ``steps`` was readable in Redis at ``at_ms``: note the delays since its events were read."""
        while self._unpublished and self._unpublished[0][0] <= steps:
            _, read_at_ms_B = self._unpublished.popleft()
            self._delays_ms.append(at_ms - read_at_ms_B)

    def status(self) -> dict[str, Any]:
        """Progress, for the display."""
        return self._status

    def delays_ms(self) -> np.ndarray:
        """Milliseconds from an event's reading to its effect in Redis, one an example."""
        return np.concatenate(self._delays_ms) if self._delays_ms else np.empty(0)

    def _step(self, batch: LabelledBatch) -> None:
        result = self._trainer.step(batch)
        self._unpublished.append((self._trainer.num_steps, batch.read_at_ms_B))
        self._log.add(batch, result.probabilities_B)
        if self._recent.num_examples > 4 * _RECENT:
            self._recent = ProgressiveMetrics()
        self._recent.add(time_ms=batch.times_ms_B, labels=batch.labels_B, probabilities=result.probabilities_B)
        self._num_examples += batch.num_examples
        self._num_unknown += result.num_unknown
        self._time_ms = max(self._time_ms, int(batch.times_ms_B.max(initial=-1)))

    def _look(self) -> None:
        recent = self._recent.recent(_RECENT) if self._recent.num_examples else {}
        self._looked_at = time.monotonic()
        self._status = {
            "examples": self._num_examples,
            "unknown_ids": self._num_unknown,
            "finished": self._batches.finished,
            "time_ms": self._time_ms,
            "auc": recent.get("auc", float("nan")),
            "calibration": recent.get("calibration", float("nan")),
        }


def _feed(events: Events, joiners: dict[int, Any], examples_from: Position) -> ExampleFeed:
    """The examples topic where there is a broker, else the joiners themselves."""
    if isinstance(events, KafkaEvents):
        return TopicFeed(events.open_examples(list(joiners), examples_from))
    return JoinerFeed(joiners)
