"""Bring a run to its end: look at it, save it now and then, and go on from the last checkpoint where something died.

In ``exact`` recovery everything begins anew at the last checkpoint, streams too. In ``available`` Ray makes a lost
shard anew, which takes its rows from the last checkpoint; a lost worker is replaced; what else is lost is recovered
exactly.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from recsys.errors import ConfigError, RecsysError, ServiceError
from recsys.ps.client import EveryShardLost
from recsys.runtime.actors import ActorDied, has_died, wait_for
from recsys.runtime.cluster import write_metrics_targets
from recsys.runtime.events import Events
from recsys.runtime.lag import lag_by_partition, total_lag
from recsys.runtime.latest import mark_served
from recsys.runtime.metrics import LagMetrics
from recsys.runtime.recoveries import Recoveries, Recovery
from recsys.runtime.run import OnlineRun, Start, join_counts
from recsys.runtime.saving import Saved, Saver
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.starting import start_at
from recsys.serving.clicks import Shown
from recsys.streams.unread import Lag
from recsys.sync.progress import ProgressNote
from recsys.sync.publisher import published_versions
from recsys.training.checkpoint import Checkpoints, State

_LOOK_SECONDS = 0.5
_SHARD_PATIENCE_SECONDS = 2.0  # in which a shard that is there answers
WORKERS_FILE = "workers"  # in a run's folder: how many there shall be
METRICS_TARGETS = "metrics_targets.json"  # beside it: where Prometheus finds what the run notes


@dataclass(frozen=True)
class Progress:
    """One look at a run."""

    seconds: float
    events: int
    examples: int
    events_per_second: float
    lag: Mapping[int, Lag]  # by partition
    auc: float
    calibration: float
    rows: int
    bytes: int
    publications: int
    last_sync_seconds_ago: float
    step: int = 0
    checkpoint_seconds_ago: float = float("nan")
    workers: int = 1
    recoveries: int = 0
    problem: str = ""
    delay_ms: float = float("nan")  # from events read to their effect in Redis: the median of the last step published

    def plain(self) -> dict[str, Any]:
        """The look as plain values, lag in total."""
        lag = total_lag(self.lag)
        fields = {name: value for name, value in vars(self).items() if name != "lag"}
        return {**fields, "lag_events": lag.events, "lag_seconds": lag.seconds}


class Watch:
    """Runs a run, and another one from its last checkpoint, until one comes to its end."""

    def __init__(
        self,
        settings: OnlineSettings,
        events: Events,
        redis_url: str,
        checkpoints: Checkpoints,
        source: str,
        say: Callable[[str], None],
        begun: Callable[[], None],
    ) -> None:
        self._settings, self._events, self._redis_url = settings, events, redis_url
        self._checkpoints, self._source, self._say, self._begun = checkpoints, source, say, begun
        self.history: list[Progress] = []
        self._recoveries = Recoveries(settings, checkpoints)
        self.state: State  # what the last checkpoint says, or would
        self.unsaved = ""  # why the last checkpoint could not be written
        self._started_at = time.monotonic()
        self._problem = ""
        self._is_stopped = False
        self._lag_metrics = LagMetrics()
        self._what_died = ""
        asked = settings.folder / WORKERS_FILE
        self._workers_asked_at = asked.stat().st_mtime if asked.exists() else 0.0  # of a run before: this one is told
        self._num_workers = settings.topology.num_workers
        self._saving: Future[Saved] | None = None
        self._run: OnlineRun | None = None
        self._note = ProgressNote.connect(redis_url, settings.layout)
        self._background = ThreadPoolExecutor(1, thread_name_prefix="saving")

    def to_the_end(self, start: Start, on_progress: Callable[[Progress], None]) -> OnlineRun:
        """The run that came to the stream's end, or to the user's; it is saved, and its actors live on."""
        died_at: float | None = None
        while True:
            self._run = run = OnlineRun(self._settings, self._events, self._redis_url, start, self._num_workers)
            saver = Saver(run, self._checkpoints, self._source)
            try:
                self._begin(run, saver, died_at)
                self._watch(run, saver, on_progress)
                self._settle()
                self._save_the_end(saver)
                self._recoveries.count_lost_steps(run)
                self._report(run, saver, on_progress)
                return run
            except (ActorDied, EveryShardLost) as error:
                died_at = time.monotonic()
                run.kill()
                self._settle()
                self._recoveries.all_go_back(error)
                start = self._last_checkpoint(run, start, error)
            except (RecsysError, ray.exceptions.RayError) as error:
                problem = self._with_what_is_kept(run, saver, error)
                run.kill()
                raise problem from error

    @property
    def recoveries(self) -> list[Recovery]:
        """What has died, and came back."""
        return self._recoveries.noted

    @property
    def lost_steps(self) -> int:
        """Steps that single shards have lost, where they alone went back to a checkpoint."""
        return self._recoveries.lost_steps

    def show(self, shown: Sequence[Shown]) -> None:
        """See ClickStream: in a replay an impression goes with its click."""

    def act(self, shown: Shown, kind: str) -> int:
        """See ClickStream: a click goes into the replay of the run that is under way."""
        if self._run is None:
            raise ServiceError("the run has not begun to replay; click again shortly")
        return self._run.act(shown, kind)

    # --- the course of a run

    def _begin(self, run: OnlineRun, saver: Saver, died_at: float | None) -> None:
        """Save the beginning, so that there is always something to return to; then let go."""
        run.prepare()
        if died_at is None:
            self._started_at = time.monotonic()
        if not self._checkpoints.names():
            self.state = saver.save().state
        self._begun()
        write_metrics_targets(self._settings.folder / METRICS_TARGETS)
        run.begin()
        if died_at is not None:
            self._recoveries.note("exact", self._what_died, run.store.look()[0]["applied"], died_at)

    def _watch(self, run: OnlineRun, saver: Saver, on_progress: Callable[[Progress], None]) -> None:
        """Look, save and mend until the stream has ended, the time is up, or Ctrl-C, which holds for what follows on a
        death, too.
        """
        until = None if self._settings.max_minutes is None else self._started_at + 60 * self._settings.max_minutes
        try:
            while not self._is_stopped and self._still_training(run) and (until is None or time.monotonic() < until):
                if self._settings.recovery.mode == "available":
                    if away := run.shards_away(_SHARD_PATIENCE_SECONDS):
                        self._report_without(away, on_progress)
                        continue
                    self._recoveries.see_to_lost_shards(run)
                    self._recoveries.see_to_replaced_workers(run)
                self._follow_workers_file(run)
                self._save_in_the_background(saver)
                self._report(run, saver, on_progress)
        except KeyboardInterrupt:
            self._is_stopped = True  # the user has seen enough: finish as at the end of a stream
        for answer in run.stop():
            wait_for(answer)
        self._recoveries.see_to_replaced_workers(run)

    def _still_training(self, run: OnlineRun) -> bool:
        """See off who has ended by now; whether a worker has not, or another has taken its place."""
        done = run.ended(_LOOK_SECONDS)
        for answer in done:
            self._see_off(run, answer)
        return any(answer not in done for answer in run.training)

    def _save_the_end(self, saver: Saver) -> None:
        """The last checkpoint. Where it can not be written, what was learned is published all the same."""
        try:
            self.state = saver.save().state
        except (ActorDied, EveryShardLost):
            raise
        except ServiceError as error:
            self.unsaved = str(error)
            self._say(f"no checkpoint: {error}")
            self.state = saver.state()

    def _save_in_the_background(self, saver: Saver) -> None:
        """Take note of a checkpoint that is there, and begin the next when it is time."""
        if self._saving is not None and self._saving.done():
            self._settle()
        if self._saving is None and time.monotonic() - saver.tried_at > self._settings.checkpoint.every_seconds:
            self._saving = self._background.submit(saver.save)

    def _settle(self) -> None:
        """Wait for a checkpoint that is being made. One that can not be written is said, and the run goes on."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            self.state = saving.result().state
            self._problem = ""
        except ActorDied:
            pass  # the watch finds out by itself
        except ServiceError as error:
            self._problem = f"no checkpoint: {error}"
            self._say(self._problem)

    # --- what dies

    def _see_off(self, run: OnlineRun, answer: Any) -> None:
        """Take the answer of an actor that has ended: raise what ended it before its time, or replace a worker."""
        if answer in run.training and self._settings.recovery.mode == "available" and has_died(answer):
            self._recoveries.replace_worker(run, run.training.index(answer))
        else:
            wait_for(answer)

    def _last_checkpoint(self, run: OnlineRun, start: Start, error: ServiceError) -> Start:
        """Where to go on; what died before there was a checkpoint begins again where it began."""
        self._what_died = str(error)
        names = self._checkpoints.names()
        if names:
            self._say(f"{error}; everything goes back to {names[-1]}")
            return start_at(self._settings, self._checkpoints, names[-1], self._redis_url)[0]
        self._say(f"{error}; everything begins again")
        if not run.is_described:
            return start
        return replace(start, published=published_versions(self._redis_url, self._settings.layout))

    def _with_what_is_kept(self, run: OnlineRun, saver: Saver, error: Exception) -> Exception:
        """Save what can be, and say in the error where it is; a run that has not begun has nothing new to save."""
        folder = self._settings.folder
        if not (run.training or self._what_died):
            return error
        try:
            if run.training:
                ray.wait(run.stop(), num_returns=len(run.training))
                self._settle()
                self.state = saver.save().state
            kept = f"what was learned is in {folder}: go on with resume={folder}"
        except (RecsysError, ray.exceptions.RayError) as also:
            kept = f"nothing more could be saved ({also}); the last checkpoint is {self._checkpoints.names()[-1:]}"
        if isinstance(error, RecsysError):
            return type(error)(f"{error}; {kept}")
        error.add_note(kept)
        return error

    # --- what is asked for on the way, and told

    def _follow_workers_file(self, run: OnlineRun) -> None:
        """Have as many workers as the file says, once it says so."""
        path = self._settings.folder / WORKERS_FILE
        if not path.exists() or path.stat().st_mtime <= self._workers_asked_at:
            return
        self._workers_asked_at = path.stat().st_mtime
        self._settle()  # who is saved, stays until it is
        try:
            run.set_workers(_number_in(path))
            self._num_workers = run.num_workers
        except ConfigError as error:
            self._say(str(error))

    def _report(self, run: OnlineRun, saver: Saver, on_progress: Callable[[Progress], None]) -> None:
        self.history.append(self._look(run, saver))
        if len(self.history) > 1 and self.history[-1].publications and not self.history[-2].publications:
            mark_served(self._settings.folder)
        self._note.put(self.history[-1].plain())
        on_progress(self.history[-1])

    def _report_without(self, away: Sequence[int], on_progress: Callable[[Progress], None]) -> None:
        """What was seen last, and which shards do not answer: all else waits until they do, but for the user."""
        if self.history:
            names = ", ".join(str(shard) for shard in away)
            problem = f"shard {names} does not answer; training goes on without it, and it comes back from a checkpoint"
            seconds = time.monotonic() - self._started_at
            self.history.append(replace(self.history[-1], seconds=seconds, problem=problem))
            on_progress(self.history[-1])

    def _look(self, run: OnlineRun, saver: Saver) -> Progress:
        joiners, trained = run.joiner_status(), run.worker_status()
        joined = join_counts(joiners)
        published = run.published_status()
        seconds = time.monotonic() - self._started_at
        learned = run.store.position()
        lag = lag_by_partition(joiners, trained, learned)
        self._lag_metrics.lag(lag)
        return Progress(
            seconds=seconds,
            events=joined["events"],
            examples=sum(number for _, number in learned.values()),
            events_per_second=joined["events"] / seconds,
            lag=lag,
            auc=_weighted("auc", trained),
            calibration=_weighted("calibration", trained),
            rows=sum(run.store.num_rows().values()),
            bytes=run.store.nbytes,
            publications=published["publications"],
            last_sync_seconds_ago=time.time() - published["last_at"],
            step=run.store.look()[0]["applied"],
            checkpoint_seconds_ago=saver.age_seconds(),
            workers=run.num_workers,
            recoveries=len(self.recoveries),
            problem=self._problem or published["error"] or _away(joiners),
            delay_ms=_weighted("delay_ms", trained),
        )


def _number_in(path: Path) -> int:
    text = path.read_text().strip()
    if not text.isdigit():
        raise ConfigError(f"{path} says {text!r}; write a number of workers, or use python -m jobs.scale")
    return int(text)


def _away(joiners: Sequence[Mapping[str, Any]]) -> str:
    """What to say of a stream whose source does not answer."""
    seconds = max((look["away_seconds"] for look in joiners), default=0.0)
    return f"Kafka has not answered for {seconds:.0f} s; the run waits for it" if seconds else ""


def _weighted(name: str, parts: list[dict[str, Any]]) -> float:
    """The mean over workers, by examples; NaN before the first."""
    known = [(part[name], part["examples"]) for part in parts if part["examples"] and part[name] == part[name]]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else float("nan")
