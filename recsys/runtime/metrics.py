"""What a run tells Prometheus, through the exporter of the Ray node that an actor runs on.

Ray puts ``ray_`` before every name: ``recsys_rows`` is scraped as ``ray_recsys_rows``. To note a value takes 2 µs (5 µs
for a pull or a push, which are two): Ray adds up in the process, and hands over every 10 s
(``RAY_metrics_report_interval_ms``). Of a histogram it passes on the buckets alone; Prometheus sees a sum that counts
every value as the middle of its bucket, so look at quantiles, not at ``_sum / _count``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.util.metrics import Counter, Gauge, Histogram

from recsys.streams.unread import Lag

# 0.1 ms to 50 s, at 1, 2, 5 of each power of ten.
SECONDS = tuple(float(f"{digit}e{power}") for power in range(-4, 2) for digit in (1, 2, 5))


@dataclass(frozen=True)
class Described:
    """A metric's kind and help text, and the label that tells its series apart."""

    kind: Literal["counter", "gauge", "histogram"]
    text: str
    label: Literal["shard", "worker", "partition"] | None = None


METRICS = {
    "recsys_pull_seconds": Described("histogram", "time in which a shard gathered the rows of one pull", "shard"),
    "recsys_push_seconds": Described("histogram", "time in which a shard took in one push", "shard"),
    "recsys_pulled_rows_total": Described("counter", "rows that a shard has sent", "shard"),
    "recsys_pushed_rows_total": Described("counter", "rows that a shard was sent gradients of", "shard"),
    "recsys_rows": Described("gauge", "rows that a shard holds", "shard"),
    "recsys_bytes": Described("gauge", "memory of a shard's rows, optimizer state and index", "shard"),
    "recsys_applied_step": Described("gauge", "the last step that a shard has applied", "shard"),
    "recsys_queued_parts": Described(
        "gauge", "parts of steps that a shard holds back until the rest is there", "shard"
    ),
    "recsys_staleness_steps": Described("gauge", "steps from the last applied to the newest that has begun", "shard"),
    "recsys_step_seconds": Described("histogram", "time of one training step", "worker"),
    "recsys_wait_seconds": Described("histogram", "time of one step spent waiting for the parameter server", "worker"),
    "recsys_examples_total": Described("counter", "examples learned", "worker"),
    "recsys_lag_events": Described("gauge", "events not joined and examples not learned yet", "partition"),
    "recsys_lag_seconds": Described("gauge", "how long the first of them has waited", "partition"),
    "recsys_checkpoint_age_seconds": Described("gauge", "time since the last checkpoint"),
    "recsys_checkpoint_seconds": Described("gauge", "time that the last checkpoint took"),
    "recsys_checkpoint_pause_seconds": Described("gauge", "time for which it kept workers waiting"),
    "recsys_checkpoint_bytes": Described("gauge", "bytes that it wrote"),
    "recsys_recovery_seconds": Described("gauge", "time from the last death of an actor until training went on"),
    "recsys_lost_steps_total": Described("counter", "steps of single shards that were lost with them"),
}


class ShardMetrics:
    """What one shard of the parameter server notes."""

    def __init__(self, shard: int) -> None:
        noted = _Noted("shard", shard)
        self._pull_seconds = noted.histogram("recsys_pull_seconds")
        self._push_seconds = noted.histogram("recsys_push_seconds")
        self._pulled_rows = noted.counter("recsys_pulled_rows_total")
        self._pushed_rows = noted.counter("recsys_pushed_rows_total")
        self._rows = noted.gauge("recsys_rows")
        self._bytes = noted.gauge("recsys_bytes")
        self._applied_step = noted.gauge("recsys_applied_step")
        self._queued_parts = noted.gauge("recsys_queued_parts")
        self._staleness_steps = noted.gauge("recsys_staleness_steps")

    def pulled(self, seconds: float, rows: int) -> None:
        """A pull of ``rows`` rows was answered."""
        self._pull_seconds.observe(float(seconds))
        _add(self._pulled_rows, rows)

    def pushed(self, seconds: float, rows: int) -> None:
        """A push to ``rows`` rows was taken in."""
        self._push_seconds.observe(float(seconds))
        _add(self._pushed_rows, rows)

    def state(self, applied_step: int, queued_parts: int, staleness_steps: int, rows: int, bytes: int) -> None:
        """How things stand; worth calling a few times a second."""
        self._applied_step.set(float(applied_step))
        self._queued_parts.set(float(queued_parts))
        self._staleness_steps.set(float(staleness_steps))
        self._rows.set(float(rows))
        self._bytes.set(float(bytes))


class WorkerMetrics:
    """What one worker notes."""

    def __init__(self, worker: int) -> None:
        noted = _Noted("worker", worker)
        self._step_seconds = noted.histogram("recsys_step_seconds")
        self._wait_seconds = noted.histogram("recsys_wait_seconds")
        self._examples = noted.counter("recsys_examples_total")

    def step(self, seconds: float, waited_seconds: float, examples: int) -> None:
        """A step is done; ``waited_seconds`` of it went by waiting for the parameter server."""
        self._step_seconds.observe(float(seconds))
        self._wait_seconds.observe(float(waited_seconds))
        _add(self._examples, examples)


class LagMetrics:
    """How far behind each partition is; the job itself notes it, who knows of all stages."""

    def __init__(self) -> None:
        noted = _Noted("partition")
        self._events = noted.gauge("recsys_lag_events")
        self._seconds = noted.gauge("recsys_lag_seconds")

    def lag(self, lag: Mapping[int, Lag]) -> None:
        """So much waits in each partition."""
        for partition, (events, seconds) in lag.items():
            self._events.set(float(events), {"partition": str(partition)})
            self._seconds.set(float(seconds), {"partition": str(partition)})


class RunMetrics:
    """What the job itself notes: of checkpoints, and of what was lost and mended."""

    def __init__(self) -> None:
        noted = _Noted()
        self._checkpoint_age = noted.gauge("recsys_checkpoint_age_seconds")
        self._checkpoint_seconds = noted.gauge("recsys_checkpoint_seconds")
        self._checkpoint_pause = noted.gauge("recsys_checkpoint_pause_seconds")
        self._checkpoint_bytes = noted.gauge("recsys_checkpoint_bytes")
        self._recovery_seconds = noted.gauge("recsys_recovery_seconds")
        self._lost_steps = noted.counter("recsys_lost_steps_total")

    def checkpointed(self, seconds: float, pause_seconds: float, bytes: int) -> None:
        """A checkpoint was written."""
        self._checkpoint_seconds.set(float(seconds))
        self._checkpoint_pause.set(float(pause_seconds))
        self._checkpoint_bytes.set(float(bytes))
        self._checkpoint_age.set(0.0)

    def checkpoint_age(self, seconds: float) -> None:
        """So long ago the last checkpoint was written."""
        self._checkpoint_age.set(float(seconds))

    def recovered(self, seconds: float) -> None:
        """Training goes on, so long after an actor died."""
        self._recovery_seconds.set(float(seconds))

    def lost_steps(self, steps: int) -> None:
        """A shard came back without its last steps."""
        _add(self._lost_steps, steps)


class _Noted:
    """Makes the metrics of ``METRICS`` that carry one label, and gives it its value."""

    def __init__(self, label: str | None = None, value: int = 0) -> None:
        self._label = label
        self._tags = {} if label is None else {label: str(value)}

    def histogram(self, name: str) -> Histogram:
        made = Histogram(name, boundaries=list(SECONDS), **self._described(name, "histogram"))
        made.set_default_tags(self._tags)
        return made

    def counter(self, name: str) -> Counter:
        made = Counter(name, **self._described(name, "counter"))
        made.set_default_tags(self._tags)
        return made

    def gauge(self, name: str) -> Gauge:
        made = Gauge(name, **self._described(name, "gauge"))
        made.set_default_tags(self._tags)
        return made

    def _described(self, name: str, kind: str) -> dict[str, Any]:
        described = METRICS[name]
        assert (described.kind, described.label) == (kind, self._label), name
        return {"description": described.text, "tag_keys": tuple(self._tags)}


def _add(counter: Counter, amount: int) -> None:
    """Ray takes an addition of nothing for a mistake."""
    if amount:
        counter.inc(float(amount))
