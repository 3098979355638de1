"""Worker actors: read batches, predict, learn, push; report."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.batches.batches import BatchStream, ExampleFeed, TopicFeed
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import ShardedRows
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.joiner import JoinerFeed
from recsys.runtime.shards import RayShard
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.predictions import PredictionLog
from recsys.training.trainer import Trainer

_RECENT = 5_000  # examples that the live AUC is taken over


class WorkerActor:
    """Trains on its partitions' examples over the parameter server, until they end or it is stopped."""

    def __init__(
        self,
        events: Events,
        joiners: dict[int, Any],
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
        self._feed = _feed(events, joiners)
        self._batches = BatchStream(
            self._feed,
            blueprint.features,
            max_examples=max_examples,
            max_seconds=max_seconds,
            idle_seconds=idle_seconds,
        )
        self._log = PredictionLog(predictions)
        self._recent = ProgressiveMetrics()
        self._unpublished: list[tuple[int, np.ndarray]] = []  # (step, when its events were read)
        self._delays_ms: list[np.ndarray] = []
        self._num_examples = 0
        self._time_ms = -1
        self._first_at = self._last_at = 0.0
        self._stopping = False

    def ready(self) -> None:
        """Answers once the worker is up."""

    def run(self) -> None:
        """Train until the stream ends, or ``stop``."""
        try:
            while not self._batches.finished and not self._stopping:
                for batch in self._batches.poll():
                    self._step(batch)
        finally:
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
            _, read_at_ms_B = self._unpublished.pop(0)
            self._delays_ms.append(at_ms - read_at_ms_B)

    def status(self) -> dict[str, Any]:
        """Progress, for the display."""
        recent = self._recent.recent(_RECENT) if self._recent.num_examples else {}
        return {
            "examples": self._num_examples,
            "steps": self._trainer.num_steps,
            "finished": self._batches.finished,
            "time_ms": self._time_ms,
            "auc": recent.get("auc", float("nan")),
            "calibration": recent.get("calibration", float("nan")),
            "lag": self._feed.lag(),
            "seconds": self._last_at - self._first_at,
        }

    def delays_ms(self) -> np.ndarray:
        """Milliseconds from an event's reading to its effect in Redis, one an example."""
        return np.concatenate(self._delays_ms) if self._delays_ms else np.empty(0)

    def _step(self, batch: Any) -> None:
        self._first_at = self._first_at or time.monotonic()
        result = self._trainer.step(batch)
        self._unpublished.append((self._trainer.num_steps, batch.read_at_ms_B))
        self._log.add(batch, result.probabilities_B)
        if self._recent.num_examples > 4 * _RECENT:
            self._recent = ProgressiveMetrics()
        self._recent.add(time_ms=batch.times_ms_B, labels=batch.labels_B, probabilities=result.probabilities_B)
        self._num_examples += batch.num_examples
        self._time_ms = max(self._time_ms, int(batch.times_ms_B.max(initial=-1)))
        self._last_at = time.monotonic()


def _feed(events: Events, joiners: dict[int, Any]) -> ExampleFeed:
    """The examples topic where there is a broker, else the joiners themselves."""
    if isinstance(events, KafkaEvents):
        return TopicFeed(events.open_examples(list(joiners)))
    return JoinerFeed(joiners)
