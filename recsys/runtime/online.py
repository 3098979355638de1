"""The online job: Kafka → joiners → workers and parameter server → Redis, as actors, watched to the end.

``train_online`` is the job as a list of steps; ``recsys.runtime.run`` wires the actors, ``saving`` makes checkpoints,
``watching`` sees to it that the run comes to its end whatever dies.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.datasets.prepared import Prepared, open_prepared
from recsys.errors import ConfigError, DataError, ServiceError
from recsys.features.state import FeatureState
from recsys.models.recommender import Recommender
from recsys.ps.client import ShardedRows
from recsys.rows.first_use import compile_kernels
from recsys.runtime.cluster import ray_session
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.latest import mark_served
from recsys.runtime.run import OnlineRun, join_counts
from recsys.runtime.services import Say, Services, services
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.starting import check_start_from, first_start, resumed_start
from recsys.runtime.watching import Progress, Recovery, Watch
from recsys.serving.clicks import ClickStream, LiveStream
from recsys.sync.publisher import Published
from recsys.training.archive import cut_archive
from recsys.training.checkpoint import Checkpoints

_HELD = (
    "redis",
    "kafka",
    "checkpoints",
    "predictions",
    "archive",
    "joiner",
)  # what a run leaves in its folder


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves: everything the report and the checks are made of."""

    settings: OnlineSettings
    prepared: Prepared | None
    source: str
    redis_url: str
    history: list[Progress]
    predictions: Path
    delays_ms: np.ndarray
    store: ShardedRows
    features: list[FeatureState]
    join_counts: dict[str, int]
    unknown_ids: int  # left out, because a table of fixed size can not hold them
    published: Published
    recoveries: list[Recovery]
    lost_steps: int  # of single shards, where they alone return to a checkpoint
    finished: bool  # the stream came to its end, rather than the user's patience
    seconds: float
    unsaved: str = ""  # why the last checkpoint could not be written


@dataclass(frozen=True)
class UnderWay:
    """What is known of a run while it learns: where it publishes, and where clicks go (None: events are from files)."""

    redis_url: str
    clicks: ClickStream | None


Beside = Callable[[UnderWay], AbstractContextManager[None]]


@contextmanager
def nothing_beside(under_way: UnderWay) -> Iterator[None]:
    """Nothing is there for the time of a run."""
    yield


@contextmanager
def train_online(
    settings: OnlineSettings,
    say: Say,
    on_progress: Callable[[Progress], None],
    beside: Beside = nothing_beside,
) -> Iterator[Trained]:
    """Train on a stream to its end, save, publish; yields what was trained while servers and actors still live.

    What was learned is saved first, whatever became of Kafka, Redis or an actor; the error then says where it is.
    ``beside`` is entered while it learns.
    """
    torch.set_num_threads(1)  # the other cores are the actors'
    checkpoints = Checkpoints(
        settings.checkpoints, keep=settings.checkpoint.keep, full_every=settings.checkpoint.full_every
    )
    _check_folder(settings, checkpoints)
    check_start_from(settings)
    prepared = _open_data(settings)
    with (
        _leaving_nothing(settings) as begun,
        services(settings, prepared, say) as running,
        ray_session(settings.ray_address),
    ):
        compile_kernels(Recommender(settings.blueprint).groups, say)  # while the broker starts
        events = running.events()
        if settings.resumes:
            start = resumed_start(settings, checkpoints, running.redis_url, say)
        else:
            start = first_start(settings, events, say)
        watch = Watch(settings, events, running.redis_url, checkpoints, running.source, say, begun)
        with beside(UnderWay(running.redis_url, _clicks(settings, events, watch))):
            run = watch.to_the_end(start, on_progress)
        with _ended_with_the_block(run):
            cut_archive(settings.folder / "archive")  # what lost workers had begun is set out
            yield _trained(settings, prepared, running, watch, run)


def _clicks(settings: OnlineSettings, events: Events, watch: Watch) -> ClickStream | None:
    """Into the replay, or beside what others send."""
    if not isinstance(events, KafkaEvents):
        return None
    return watch if settings.replay.enabled else LiveStream(events.open_sink, events.num_partitions)


@contextmanager
def _ended_with_the_block(run: OnlineRun) -> Iterator[None]:
    """On a cluster that goes on, or a session that others use, a run's actors end with it."""
    try:
        yield
    finally:
        run.kill()


def _trained(
    settings: OnlineSettings, prepared: Prepared | None, running: Services, watch: Watch, run: OnlineRun
) -> Trained:
    return Trained(
        settings=settings,
        prepared=prepared,
        source=running.source,
        redis_url=running.redis_url,
        history=watch.history,
        predictions=settings.folder / "predictions",
        published=_published(run),
        delays_ms=run.delays_ms(),
        store=run.store,
        features=[FeatureState.from_json(dict(state["features"])) for state in watch.state.joiners],
        join_counts=join_counts(run.joiner_status()),
        unknown_ids=watch.state.about["unknown_ids"],
        recoveries=watch.recoveries,
        lost_steps=watch.lost_steps,
        finished=watch.state.about["finished"],
        seconds=watch.history[-1].seconds,
        unsaved=watch.unsaved,
    )


def _published(run: OnlineRun) -> Published:
    folder = run.settings.folder
    try:
        published = run.publish()
    except ServiceError as error:
        raise ServiceError(f"{error}; what was learned is in {folder}: python -m jobs.publish run={folder}") from error
    mark_served(folder)
    return published


def _check_folder(settings: OnlineSettings, checkpoints: Checkpoints) -> None:
    """A folder that holds a run keeps it: what that run published would count as newer than what this one learns."""
    folder = settings.folder
    if settings.resumes:
        if not checkpoints.names():
            raise ConfigError(f"nothing to resume: no checkpoint in {settings.checkpoints}; give the folder of a run")
        return
    held = [name for name in _HELD if (folder / name).exists()]
    if held:
        raise ConfigError(
            f"{folder} holds a run already ({', '.join(held)}); go on with it by resume={folder}, or choose another "
            "with hydra.run.dir="
        )


@contextmanager
def _leaving_nothing(settings: OnlineSettings) -> Iterator[Callable[[], None]]:
    """A run that ends before it has begun leaves its folder as it was, to be tried again."""
    has_begun = settings.resumes

    def begin() -> None:
        nonlocal has_begun
        has_begun = True

    try:
        yield begin
    finally:
        if not has_begun:
            for name in _HELD:
                shutil.rmtree(settings.folder / name, ignore_errors=True)


def _open_data(settings: OnlineSettings) -> Prepared | None:
    """The prepared data set, where the run replays one."""
    if settings.bootstrap_servers is not None and not settings.replay.enabled:
        return None
    try:
        return open_prepared(settings.data_folder, settings.data_name)
    except DataError:
        if settings.source == "parquet" or settings.replay.enabled:
            raise
        return None  # an embedded broker that somebody else will feed
