"""Training in epochs as ``jobs.train`` is told to: one run, or the stages of a table kind, each of which may be one.

A run leaves figures and checkpoints in its folder, and goes on from there where it is told to resume.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.progress import Progress

from recsys.errors import ConfigError
from recsys.models.computing import Computing
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.first_use import compile_kernels
from recsys.rows.local import LocalRows
from recsys.rows.store import RowGroup, RowStore, Snapshot
from recsys.runtime.parts import Parts
from recsys.runtime.sections import TrainConfig
from recsys.training.checkpoint import Checkpoints
from recsys.training.epochs import Course, fit
from recsys.training.fit import Examples, evaluate, held_out_batches
from recsys.training.keeping import Keeper, check_told, check_unfinished, open_resumed, write_json
from recsys.training.magnitudes import alive_share
from recsys.training.mlflow_run import MlflowRun
from recsys.training.pruning import kept_share
from recsys.training.slices import OF, write_seen
from recsys.training.stage import Work
from recsys.training.stages import run_stages, stages_of
from recsys.training.trainer import Learner, Trainer

if TYPE_CHECKING:
    from recsys.runtime.shards import RayShard

OnStep = Callable[[int, int | None], None]  # (step, of how many)
OnValidated = Callable[[Course], None]


def train(
    settings: TrainConfig,
    blueprint: Blueprint,
    parts: Parts,
    folder: Path,
    console: Console,
    on_step: OnStep = lambda step, steps: None,
    on_validated: OnValidated = lambda course: None,
) -> None:
    """Train what the blueprint describes, through its table's stages where it has some.

    ``on_step`` hears each step, and ``on_validated`` each validation of a run without stages.
    """
    if stages_of(blueprint.table):
        run_in_stages(settings, blueprint, parts, folder, console, on_step)
    else:
        run_in_epochs(settings, blueprint, parts, folder, console, on_step, on_validated=on_validated)


@contextmanager
def rows_of(settings: TrainConfig, groups: Sequence[RowGroup], console: Console) -> Iterator[RowStore]:
    """The rows: in this process, or on a parameter server whose one worker is this process."""
    compile_kernels(groups, console.print)
    if settings.store.shards is None:
        yield LocalRows(groups)
    else:
        from recsys.ps.worker import WorkerRows
        from recsys.runtime.near import near

        with _shards(settings, groups) as shards:
            yield WorkerRows(groups, near(shards, groups))


@contextmanager
def learner_of(
    settings: TrainConfig, recommender: Recommender, valid: Examples, num_steps: int, console: Console
) -> Iterator[Learner]:
    """Who trains: this process, or several workers, after so many steps; some tables learn from ``valid`` too."""
    clip_norm = settings.fit.clip_norm
    if settings.workers == 1:
        held_out = held_out_batches(valid, settings.batch.max_examples, settings.seed, num_steps)
        with rows_of(settings, recommender.groups, console) as store:
            yield Trainer(recommender, store, num_steps=num_steps, clip_norm=clip_norm, held_out=held_out)
    else:
        from recsys.runtime.team import start_team

        for name, table in recommender.embeddings.tables.items():
            if table.held_out_groups:
                raise ConfigError(f"table {name!r} learns from held-out examples, in one process; set workers=1")
        with _shards(settings, recommender.groups) as shards:
            yield start_team(
                recommender,
                shards,
                num_workers=settings.workers,
                num_steps=num_steps,
                clip_norm=clip_norm,
                placement=settings.ray.placement.worker,
            )


@contextmanager
def _shards(settings: TrainConfig, groups: Sequence[RowGroup]) -> "Iterator[list[RayShard]]":
    """A parameter server for the time of the block."""
    from recsys.runtime.cluster import ray_session
    from recsys.runtime.shards import Begin, start_shards

    assert settings.store.shards is not None
    members = dict.fromkeys(range(settings.workers), 1)
    with ray_session(settings.ray.address):
        begin = Begin(start=Snapshot((0,), {}), members=members, staleness=settings.store.staleness)
        yield start_shards(groups, settings.store.shards, begin, settings.ray.placement.shard)


def run_in_stages(
    settings: TrainConfig, blueprint: Blueprint, parts: Parts, folder: Path, console: Console, on_step: OnStep
) -> None:
    """What the table's kind goes through before it is served; where the run goes on, so does each stage."""

    def train_stage(
        blueprint: Blueprint, within: Path, start: Snapshot | None = None, epochs: int | None = None
    ) -> None:
        checkpoints = Checkpoints(within / "checkpoints")
        begun = settings.resume is not None and bool(checkpoints.names())
        if begun and within != folder and (within / "summary.json").exists():
            check_told(within, checkpoints.load_state()[0], blueprint, parts.about)
            console.print(f"it has ended: {os.path.relpath(within)} is read")
        else:
            told = replace(_for_epochs(settings, epochs), resume=within if begun else None)
            run_in_epochs(told, blueprint, parts, within, console, on_step, start, keeps_best=epochs is None)

    if settings.resume is not None:
        check_unfinished(folder)
    shared: dict[str, Any] = {"folder": folder, "data": settings.data.name, "say": console.print}
    run_stages(Work(learned=parts.train, valid=parts.valid, train=train_stage, **shared), blueprint)


def _for_epochs(settings: TrainConfig, epochs: int | None) -> TrainConfig:
    """To train for so many epochs, if they are given, however good it is: what a stage that prunes does."""
    if epochs is None:
        return settings
    return replace(settings, epochs=epochs, fit=replace(settings.fit, patience=None, plateau_factor=None))


def run_in_epochs(
    settings: TrainConfig,
    blueprint: Blueprint,
    parts: Parts,
    folder: Path,
    console: Console,
    on_step: OnStep,
    start: Snapshot | None = None,
    on_validated: OnValidated = lambda course: None,
    *,
    keeps_best: bool = True,
) -> None:
    """Train and validate until it is over, put the best back, judge it, and leave that as the last checkpoint.

    A new run begins from ``start`` where that is given; without ``keeps_best``, it is the last that is judged and left.
    """
    resumed = None if settings.resume is None else open_resumed(settings.resume, blueprint, parts.about)
    course = Course() if resumed is None else resumed[1]
    computing = Computing(device=settings.device, precision=settings.precision)
    recommender = Recommender(blueprint if resumed is None else resumed[0].blueprint).compute(computing)
    with (
        learner_of(settings, recommender, parts.valid, course.num_steps, console) as trainer,
        progress(console, on_step) as step,
    ):
        store, trainer.num_clipped = trainer.store, course.num_clipped
        begun = start if resumed is None else resumed[0].rows
        if begun is None:
            trainer.start()
        else:
            store.restore(begun)
        keeper = Keeper(
            folder,
            trainer,
            monitor=settings.fit.monitor,
            about=parts.about,
            features=parts.features,
            on_step=step,
            say=console.print,
            figures=lambda: {**kept_share(trainer.recommender, store), **alive_share(trainer.recommender, store)},
            on_validated=on_validated,
            mlflow=_mlflow(settings, blueprint, parts, folder),
        )
        with closing(keeper):
            course = _fit(settings, trainer, parts, keeper, course)
            if keeps_best:
                keeper.restore_best()
            test = evaluate(trainer, parts.test)
            keeper.tested(course, test)
            keeper.checkpoint(course)
        summary = {**_of_course(course, test), **sizes_of(recommender, store), **_of_data(parts)}
    console.print(f"test AUC {test['auc']:.4f}  logloss {test['logloss']:.4f}  calibration {test['calibration']:.3f}")
    if parts.seen is not None:
        keep_seen(parts.seen, folder)
    write_json(folder / "summary.json", summary)
    say_where(summary, folder, console)


def _mlflow(settings: TrainConfig, blueprint: Blueprint, parts: Parts, folder: Path) -> MlflowRun | None:
    """Where MLflow is named, a run there, with what this one was told."""
    if settings.mlflow.url is None:
        return None
    said = {name: value for name, value in blueprint.to_json().items() if name != "features"}
    folder.mkdir(parents=True, exist_ok=True)
    return MlflowRun(settings.mlflow, folder, {**said, **parts.about, "epochs": settings.epochs})


def _of_course(course: Course, test: dict[str, float]) -> dict[str, Any]:
    """How training went, and what its best was worth."""
    return {
        "test": test,
        "valid": course.history,
        "best_at": course.best_at,
        "steps": course.num_steps,
        "steps_clipped": course.num_clipped,
    }


def sizes_of(recommender: Recommender, store: RowStore) -> dict[str, Any]:
    """What the store holds, and what its tables take."""
    num_rows = store.num_rows()
    return {"rows": num_rows, "bytes": store.nbytes, "tables": recommender.embeddings.sizes(num_rows)}


def _of_data(parts: Parts) -> dict[str, Any]:
    """How many examples there are, and what their preparation knows: the best AUC that can be, or a sample alone."""
    known: dict[str, Any] = {name: parts.about[name] for name in ("best_auc", "sample") if name in parts.about}
    return {"examples": parts.num_examples, **known}


def _fit(settings: TrainConfig, trainer: Learner, parts: Parts, keeper: Keeper, course: Course) -> Course:
    """Until it is over; where it was interrupted, a checkpoint is there to go on from."""
    with _stopping(keeper) as stopped_by:
        course = fit(
            trainer,
            parts.train,
            parts.valid,
            epochs=settings.epochs,
            batch_size=settings.batch.max_examples,
            seed=settings.seed,
            how=settings.fit,
            watcher=keeper,
            course=course,
        )
    if not course.finished:
        raise KeyboardInterrupt(*stopped_by)
    return course


@contextmanager
def _stopping(keeper: Keeper) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM wait for the step that is under way: rows are whole between steps. A second does not."""
    numbers: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if numbers:
            raise KeyboardInterrupt(number)
        numbers.append(number)
        keeper.stop()

    if threading.current_thread() is not threading.main_thread():  # signals are another's
        yield numbers
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(console: Console, on_step: OnStep = lambda step, steps: None) -> Iterator[OnStep]:
    """A bar: what is yielded is told (step, steps), and tells ``on_step``; None where it is not known how many."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("training", total=None)

        def stepped(step: int, steps: int | None = None) -> None:
            bar.update(task, completed=step, total=steps)
            on_step(step, steps)

        yield stepped


def keep_seen(learned: pa.Table, folder: Path) -> None:
    """Whom a run that goes on from this one knows."""
    write_seen(folder / "predictions", {of: learned.column(f"{of}_id").combine_chunks() for of in OF})


def say_where(summary: dict[str, Any], folder: Path, console: Console) -> None:
    """The last line of a run."""
    console.print(f"{summary['bytes']:,} bytes; summary in {os.path.relpath(folder / 'summary.json')}")
