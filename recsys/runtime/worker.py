"""Worker actors: read batches, predict, learn, push; report."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.batches.batch import LabelledBatch
from recsys.batches.batches import BatchStream, ExampleFeed, PositionedBatch, TopicFeed
from recsys.errors import RecsysError, ServiceError
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.absence import sparing
from recsys.ps.client import Shard
from recsys.ps.worker import WorkerRows
from recsys.rows.store import RowGroup, StreamPosition
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.joiner import JoinerFeed
from recsys.runtime.metrics import WorkerMetrics
from recsys.runtime.near import near
from recsys.runtime.shards import RayShard
from recsys.training.archive import Archive, Archiving
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.predictions import PredictionLog
from recsys.training.trainer import Trainer

_RECENT = 5_000  # examples that the live AUC is taken over
_LOOK_SECONDS = 0.5  # how old a status may be
_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one worker is to do: train on the examples of some partitions, from a position, as number ``worker``.

    Its first step is the one after ``step``: the shards expect it, unless it ``joins`` when something comes. It
    ``goes_on`` without a shard that is away.
    """

    worker: int
    blueprint: Blueprint
    shards: Sequence[RayShard]
    events: Events
    joiners: Mapping[int, Any]  # partition -> actor
    start: StreamPosition
    predictions: Path
    archive: Path
    archiving: Archiving
    max_examples: int
    max_seconds: float | None = None
    idle_seconds: float | None = None
    step: int = 0
    joins: bool = False
    goes_on: bool = False


class WorkerActor:
    """Trains on its partitions' examples over the parameter server, until they end or it is stopped.

    ``status``, ``mark``, ``logged`` and ``published`` are asked by others while ``run`` trains: they touch nothing that
    it changes halfway. Figures are made by the training thread and replaced as a whole. Where nothing comes for a while
    it leaves the others alone, and joins them again when something does.
    """

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(1)  # cores are shared with the shards, and results do not depend on their number
        self._task = task
        recommender = Recommender(task.blueprint)
        shards = _shards(task, recommender.groups)
        self._rows = WorkerRows(recommender.groups, shards, worker=task.worker, step=task.step)
        self._trainer = Trainer(recommender, self._rows, worker=task.worker, num_steps=task.step)
        self._feed = _feed(task)
        self._batches = BatchStream(
            self._feed,
            task.blueprint.features,
            max_examples=task.max_examples,
            max_seconds=task.max_seconds,
            idle_seconds=task.idle_seconds,
            start=task.start,
        )
        self._ready: deque[PositionedBatch] = deque()
        self._log = PredictionLog(task.predictions, worker=task.worker, step=task.step)
        self._archive = _archive(task)
        self._log_is_free = threading.Condition()
        self._metrics = WorkerMetrics(task.worker)
        self._recent = ProgressiveMetrics()
        self._unpublished: deque[tuple[int, np.ndarray]] = deque()  # (step, when its events were read)
        self._delays_ms: list[np.ndarray] = []
        self._num_examples = self._num_unknown = 0  # of this worker's own
        self._time_ms = -1
        self._taking: int | None = None  # the step under way
        self._takes_part = not task.joins
        self._stopping = False
        self._look()

    def ready(self) -> None:
        """Answers once the worker is up."""

    def run(self) -> None:
        """Train until the stream ends, or ``stop``."""
        try:
            while not (self._finished or self._stopping):
                self._read()
                if self._ready and not self._takes_part:
                    self._join()
                if self._ready:
                    self._step()
                elif self._takes_part and self._batches.idle:
                    self._leave()
                if time.monotonic() - self._looked_at > _LOOK_SECONDS:
                    self._look()
            if self._takes_part:
                self._leave()
        except BaseException:
            with contextlib.suppress(RecsysError):
                self._rows.leave()  # nobody shall wait for a worker that has failed
            raise
        finally:
            self._look()
            with self._log_is_free:
                self._taking = None  # of a step that has failed there is nothing to wait for
                self._log_is_free.notify_all()
                self._close_logs()

    def _close_logs(self) -> None:
        """Finish the files. ServiceError where they can not be: what they lack is learned all the same."""
        try:
            self._log.close()
            if self._archive is not None:
                self._archive.close()
        except OSError as error:
            raise _unwritten(error) from error

    def stop(self) -> None:
        """End ``run`` after the current batch."""
        self._stopping = True

    def takes_part(self) -> bool:
        """Whether steps wait for this worker: not while its stream is silent."""
        return self._takes_part

    def mark(self) -> int:
        """The event time reached."""
        return self._time_ms

    def logged(self, step: int) -> None:
        """Answers when predictions and examples of this worker up to a step are kept, whatever becomes of it."""
        with self._log_is_free:
            self._log_is_free.wait_for(lambda: self._taking is None or self._taking > step)
            if not self._log.closed:
                try:
                    self._log.flush()
                    if self._archive is not None:
                        self._archive.flush()
                except OSError as error:
                    raise _unwritten(error) from error

    def published(self, step: int, at_ms: float) -> None:
        """Everything up to ``step`` was readable in Redis at ``at_ms``: note the delays since its events were read."""
        while self._unpublished and self._unpublished[0][0] <= step:
            _, read_at_ms_B = self._unpublished.popleft()
            self._delays_ms.append(at_ms - read_at_ms_B)

    def status(self) -> dict[str, Any]:
        """Progress, for the display."""
        return self._status

    def delays_ms(self) -> np.ndarray:
        """Milliseconds from an event's reading to its effect in Redis, one an example."""
        return np.concatenate(self._delays_ms) if self._delays_ms else np.empty(0)

    @property
    def _finished(self) -> bool:
        return self._batches.finished and not self._ready

    def _read(self) -> None:
        """Have the next batch, and the one after it if it is there already: its rows are read ahead."""
        if len(self._ready) < 2 and not self._batches.finished:
            self._ready.extend(self._batches.poll(0.0 if self._ready else _POLL_SECONDS))

    def _step(self) -> None:
        batch, position, rows = self._ready.popleft()
        upcoming = self._ready[0].batch if self._ready else None
        started, waited_before = time.perf_counter(), self._rows.waited_seconds
        self._taking = self._rows.step + 1
        result = self._trainer.step(batch, upcoming=upcoming, position=position)
        self._metrics.step(time.perf_counter() - started, self._rows.waited_seconds - waited_before, batch.num_examples)
        with self._log_is_free:
            try:
                self._log.add(self._taking, batch, result.probabilities_B)
                if self._archive is not None:
                    self._archive.add(self._taking, rows)
            except OSError as error:
                raise _unwritten(error) from error
            self._taking = None
            self._log_is_free.notify_all()
        self._note(batch, result.probabilities_B, result.num_unknown)

    def _note(self, batch: LabelledBatch, probabilities_B: np.ndarray, num_unknown: int) -> None:
        self._unpublished.append((self._rows.step, batch.read_at_ms_B))
        if self._recent.num_examples > 4 * _RECENT:
            self._recent = ProgressiveMetrics()
        self._recent.add(
            time_ms=batch.times_ms_B,
            labels=batch.labels_B,
            probabilities=probabilities_B,
            weights=1 / batch.keep_rates_B,
        )
        self._num_examples += batch.num_examples
        self._num_unknown += num_unknown
        self._time_ms = max(self._time_ms, int(batch.times_ms_B.max(initial=-1)))

    def _join(self) -> None:
        self._rows.join()
        self._trainer.num_steps = self._rows.step
        self._takes_part = True

    def _leave(self) -> None:
        self._rows.leave()
        self._takes_part = False

    def _look(self) -> None:
        recent = self._recent.recent(_RECENT) if self._recent.num_examples else {}
        self._looked_at = time.monotonic()
        self._status = {
            "examples": self._num_examples,
            "unknown_ids": self._num_unknown,
            "finished": self._finished,
            "time_ms": self._time_ms,
            "lag_seconds": self._lag_seconds(),
            "auc": recent.get("auc", float("nan")),
            "calibration": recent.get("calibration", float("nan")),
            "delay_ms": float(np.median(self._delays_ms[-1])) if self._delays_ms else float("nan"),
        }

    def _lag_seconds(self) -> dict[int, float]:
        """By partition; asked by the thread that reads, for a consumer serves one alone. Joiners tell it of files."""
        if isinstance(self._feed, TopicFeed):
            return self._feed.lag_seconds(self._batches.position(), time.time())
        return {}


def _shards(task: Task, groups: Sequence[RowGroup]) -> Sequence[Shard]:
    """The shards as this worker's thread sees them."""
    if task.goes_on:
        return sparing(near([replace(shard, waits=False) for shard in task.shards], groups), groups)
    return near(task.shards, groups)


def _archive(task: Task) -> Archive | None:
    if not task.archiving.enabled:
        return None
    return Archive(task.archive, task.blueprint.features, worker=task.worker, min_rows=task.archiving.min_rows)


def _feed(task: Task) -> ExampleFeed:
    """The examples topic where there is a broker, else the joiners themselves."""
    if isinstance(task.events, KafkaEvents):
        offsets = {partition: offset for partition, (offset, _) in task.start.items()}
        return TopicFeed(task.events.open_examples(list(task.joiners), offsets))
    return JoinerFeed(task.joiners, task.start)


def _unwritten(error: OSError) -> ServiceError:
    return ServiceError(
        f"predictions and archive can not be written ({error.strerror or error}); make room under the run's folder"
    )
