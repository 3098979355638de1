"""Train in epochs on recorded events or plain examples: ``python -m jobs.train table=unified model=dcnv2``."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from jobs.launch import job, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from recsys.models.recommender import Blueprint, Recommender
    from recsys.rows.store import RowGroup, RowStore, Snapshot
    from recsys.runtime.sections import TrainConfig
    from recsys.tabular.prepared import PreparedExamples
    from recsys.training.epochs import Course
    from recsys.training.fit import Examples, Joined
    from recsys.training.keeping import Keeper
    from recsys.training.trainer import Trainer


@job("train")
def main(config: dict[str, Any], folder: Path) -> None:
    """Train, choose the best by the valid part, judge it on test; leave figures and checkpoints in ``folder``.

    Recorded events are joined and shared out by time; plain examples are read as they were prepared. Of an archive, or
    with ``order=recorded``: predict, then learn all of it as it came.
    """
    from recsys.fields import build
    from recsys.runtime.sections import TrainConfig
    from recsys.runtime.settings import build_blueprint

    settings = build(TrainConfig, config, "")
    prepared = _prepared(settings)
    blueprint = build_blueprint(config, None if prepared is None else prepared.features)

    from rich.console import Console

    from recsys.training.stages import stages_of

    console = Console()
    _write_config(config, folder)
    if settings.is_in_order:
        _run_in_order(settings, blueprint, _recorded(settings, folder, console), folder, console)
    else:
        parts = _joined_parts(settings, folder, console) if prepared is None else _plain_parts(settings, prepared)
        run = _run_in_stages if stages_of(blueprint.table) else _run_in_epochs
        run(settings, blueprint, parts, folder, console)


def _prepared(settings: "TrainConfig") -> "PreparedExamples | None":
    """The prepared folder of plain examples; None where the data set is of events."""
    from recsys.tabular.prepared import open_examples

    return None if settings.data.examples is None else open_examples(settings.data)


def _write_config(config: dict[str, Any], folder: Path) -> None:
    """The configuration as it was resolved."""
    from omegaconf import OmegaConf

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")


# --- what is learned


@dataclass(frozen=True)
class _Parts:
    """Examples to learn from, to choose by and to judge by; and what a checkpoint tells of them."""

    train: "Examples"
    valid: "Examples"
    test: "Examples"
    features: dict[str, Any]
    about: dict[str, Any]
    seen: "pa.Table | None" = None  # joined examples that were learned: whom an online run would know

    @property
    def num_examples(self) -> int:
        """All of them."""
        return self.train.num_examples + self.valid.num_examples + self.test.num_examples


def _plain_parts(settings: "TrainConfig", prepared: "PreparedExamples") -> _Parts:
    from recsys.features.state import FeatureState
    from recsys.tabular.batches import ExampleFile

    assert settings.data.examples is not None
    train, valid, test = (
        ExampleFile(prepared.file(split), prepared.features, group=settings.data.examples.group)
        for split in ("train", "valid", "test")
    )
    about = {**_about(settings), "time_ms": 0, **prepared.manifest.about}
    return _Parts(train, valid, test, FeatureState(settings.join.keep_items).to_json(), about)


def _joined_parts(settings: "TrainConfig", folder: Path, console: "Console") -> _Parts:
    from recsys.training.fit import JoinedExamples

    recorded = _recorded(settings, folder, console)
    tables = settings.split.cut(recorded.examples)
    train, valid, test = (JoinedExamples(table, settings.data.features) for table in tables)
    about = {**_about(settings), "time_ms": recorded.time_ms}
    return _Parts(train, valid, test, recorded.features.to_json(), about, seen=tables[0])


def _about(settings: "TrainConfig") -> dict[str, Any]:
    """What a checkpoint says of its run, and a run that goes on must say too."""
    return {
        "data": settings.data.name,
        "source": settings.source.kind,
        "seed": settings.seed,
        "max_examples": settings.batch.max_examples,
    }


def _recorded(settings: "TrainConfig", folder: Path, console: "Console") -> "Joined":
    """The joined examples: of recorded events, or those that an online run has learned."""
    if settings.source.folder is None:
        return _join(settings, folder, console)
    from recsys.features.state import FeatureState
    from recsys.training.archive import read_archive
    from recsys.training.fit import Joined

    with console.status(f"reading {settings.source.folder}"):
        examples = read_archive(settings.source.folder, settings.data.features).slice(0, settings.replay.limit)
    time_ms = max(examples.column("emitted_ms").to_pylist())
    return Joined(examples, FeatureState(settings.join.keep_items), time_ms)


def _join(settings: "TrainConfig", folder: Path, console: "Console") -> "Joined":
    from recsys.datasets.prepared import open_prepared
    from recsys.datasets.replay import event_files
    from recsys.streams.parquet import ParquetSource
    from recsys.training.fit import join_recorded

    prepared = open_prepared(settings.data.folder, settings.data.name)
    partitions = settings.source.num_partitions
    files = event_files(prepared, settings.replay.limit, folder / "events")
    with console.status(f"joining the events of {settings.data.name}"):
        return join_recorded(
            ParquetSource(files, partitions),
            partitions,
            settings.join,
            settings.data.features,
            folder / "dead-letters",
        )


@contextmanager
def _rows(settings: "TrainConfig", groups: "Sequence[RowGroup]", console: "Console") -> "Iterator[RowStore]":
    """The rows: in this process, or on a parameter server."""
    from recsys.rows.first_use import compile_kernels

    compile_kernels(groups, console.print)
    if settings.store.shards is None:
        from recsys.rows.local import LocalRows

        yield LocalRows(groups)
    else:
        from recsys.ps.worker import WorkerRows
        from recsys.rows.store import Snapshot
        from recsys.runtime.cluster import ray_session
        from recsys.runtime.near import near
        from recsys.runtime.shards import Begin, start_shards

        with ray_session(settings.ray.address):
            begin = Begin(start=Snapshot((0,), {}), members={0: 1}, staleness=settings.store.staleness)
            shards = start_shards(groups, settings.store.shards, begin, settings.ray.placement.shard)
            yield WorkerRows(groups, near(shards, groups))


# --- in stages, each of which may be a run in epochs


def _run_in_stages(
    settings: "TrainConfig", blueprint: "Blueprint", parts: _Parts, folder: Path, console: "Console"
) -> None:
    """What the table's kind goes through before it is served; where the run goes on, so does each stage."""
    from recsys.training.checkpoint import Checkpoints
    from recsys.training.keeping import check_told, check_unfinished
    from recsys.training.stage import Work
    from recsys.training.stages import run_stages

    def train(blueprint: "Blueprint", within: Path, start: "Snapshot | None" = None, epochs: int | None = None) -> None:
        checkpoints = Checkpoints(within / "checkpoints")
        begun = settings.resume is not None and bool(checkpoints.names())
        if begun and within != folder and (within / "summary.json").exists():
            check_told(within, checkpoints.load_state()[0], blueprint, parts.about)
            console.print(f"it has ended: {shown(within)} is read")
        else:
            told = replace(
                settings if epochs is None else _for_epochs(settings, epochs), resume=within if begun else None
            )
            _run_in_epochs(told, blueprint, parts, within, console, start, keeps_best=epochs is None)

    if settings.resume is not None:
        check_unfinished(folder)
    work = Work(
        folder=folder,
        data=settings.data.name,
        learned=parts.train,
        valid=parts.valid,
        train=train,
        say=console.print,
    )
    run_stages(work, blueprint)


def _for_epochs(settings: "TrainConfig", epochs: int) -> "TrainConfig":
    """To train for so many epochs, however good it is: what a stage that prunes does."""
    fit = replace(settings.fit, patience=None, plateau_factor=None)
    return replace(settings, epochs=epochs, fit=fit)


def _run_in_epochs(
    settings: "TrainConfig",
    blueprint: "Blueprint",
    parts: _Parts,
    folder: Path,
    console: "Console",
    start: "Snapshot | None" = None,
    *,
    keeps_best: bool = True,
) -> None:
    """Train and validate until it is over, put the best back, judge it, and leave that as the last checkpoint.

    A new run begins from ``start`` where that is given; without ``keeps_best``, it is the last that is judged and left.
    """
    from recsys.models.recommender import Recommender
    from recsys.training.epochs import Course
    from recsys.training.fit import evaluate, held_out_batches
    from recsys.training.keeping import Keeper, open_resumed, write_json
    from recsys.training.magnitudes import alive_share
    from recsys.training.pruning import kept_share
    from recsys.training.trainer import Trainer

    resumed = None if settings.resume is None else open_resumed(settings.resume, blueprint, parts.about)
    course = Course() if resumed is None else resumed[1]
    recommender = Recommender(blueprint if resumed is None else resumed[0].blueprint)
    with _rows(settings, recommender.groups, console) as store, _progress(console) as on_step:
        trainer = Trainer(
            recommender,
            store,
            num_steps=course.num_steps,
            clip_norm=settings.fit.clip_norm,
            held_out=held_out_batches(parts.valid, settings.batch.max_examples, settings.seed, course.num_steps),
        )
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
            on_step=on_step,
            say=console.print,
            figures=lambda: {**kept_share(trainer.recommender, store), **alive_share(trainer.recommender, store)},
        )
        with closing(keeper):
            course = _fit(settings, trainer, parts, keeper, course)
            if keeps_best:
                keeper.restore_best()
            test = evaluate(trainer, parts.test)
            keeper.checkpoint(course)
        summary = {**_of_course(course, test), **_of_rows(recommender, store), **_of_data(parts)}
    console.print(f"test AUC {test['auc']:.4f}  logloss {test['logloss']:.4f}  calibration {test['calibration']:.3f}")
    if parts.seen is not None:
        _write_seen(parts.seen, folder)
    write_json(folder / "summary.json", summary)
    _say_where(summary, folder, console)


def _of_course(course: "Course", test: dict[str, float]) -> dict[str, Any]:
    """How training went, and what its best was worth."""
    return {
        "test": test,
        "valid": course.history,
        "best_at": course.best_at,
        "steps": course.num_steps,
        "steps_clipped": course.num_clipped,
    }


def _of_rows(recommender: "Recommender", store: "RowStore") -> dict[str, Any]:
    """What the store holds, and what its tables take."""
    num_rows = store.num_rows()
    return {"rows": num_rows, "bytes": store.nbytes, "tables": recommender.embeddings.sizes(num_rows)}


def _of_data(parts: _Parts) -> dict[str, Any]:
    """How many examples there are, and what their preparation knows: the best AUC that can be, or a sample alone."""
    known: dict[str, Any] = {name: parts.about[name] for name in ("best_auc", "sample") if name in parts.about}
    return {"examples": parts.num_examples, **known}


def _fit(settings: "TrainConfig", trainer: "Trainer", parts: _Parts, keeper: "Keeper", course: "Course") -> "Course":
    """Until it is over; where it was interrupted, a checkpoint is there to go on from."""
    from recsys.training.epochs import fit

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
def _stopping(keeper: "Keeper") -> "Iterator[list[int]]":
    """Let Ctrl-C and SIGTERM wait for the step that is under way: rows are whole between steps. A second does not."""
    numbers: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if numbers:
            raise KeyboardInterrupt(number)
        numbers.append(number)
        keeper.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(console: "Console") -> "Iterator[Any]":
    """A bar: what is yielded is told (step, steps)."""
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=None)
        yield lambda step, steps=None: progress.update(task, completed=step, total=steps)


# --- as it was recorded


def _run_in_order(
    settings: "TrainConfig", blueprint: "Blueprint", recorded: "Joined", folder: Path, console: "Console"
) -> None:
    """Everything as it came, an archive in its very batches."""
    from recsys.models.recommender import Recommender
    from recsys.training.checkpoint import Checkpoint, save_checkpoint
    from recsys.training.keeping import write_json
    from recsys.training.trainer import Trainer

    recommender = Recommender(blueprint)
    with _rows(settings, recommender.groups, console) as store:
        trainer = Trainer(recommender, store, clip_norm=settings.fit.clip_norm)
        trainer.start()
        figures = _learn_in_order(settings, trainer, recorded.examples, console)
        state = {"features": recorded.features.to_json(), "position": []}
        about = {**_about(settings), "time_ms": recorded.time_ms}
        rows = store.snapshot()
        checkpoint = Checkpoint(blueprint=blueprint, joiners=[state], about=about, rows=rows)
        save_checkpoint(folder / "checkpoints", checkpoint)
        summary = {
            **figures,
            "examples": recorded.examples.num_rows,
            **_of_rows(recommender, store),
        }
    _write_seen(recorded.examples, folder)
    write_json(folder / "summary.json", summary)
    _say_where(summary, folder, console)


def _learn_in_order(
    settings: "TrainConfig", trainer: "Trainer", examples: "pa.Table", console: "Console"
) -> dict[str, Any]:
    """The figures of each epoch, predicted before learned."""
    from recsys.training.fit import batches_of, learn_in_order, recorded_batches

    history = []
    with _progress(console) as on_step:
        for epoch in range(settings.epochs):
            if settings.source.kind == "archive":
                batches = recorded_batches(examples, trainer.recommender.features)
            else:
                batches = batches_of(examples, trainer.recommender.features, settings.batch.max_examples)
            predicted = learn_in_order(trainer, batches, on_step)
            history.append({"all": predicted.over_last(1.0), "last_half": predicted.over_last(0.5)})
            auc = history[-1]["last_half"]["auc"]
            console.print(f"epoch {epoch + 1}: AUC of its last half, predicted before learned, {auc:.4f}")
    return {"progressive": history}


def _write_seen(learned: "pa.Table", folder: Path) -> None:
    """Whom a run that goes on from this one knows."""
    from recsys.training.slices import OF, write_seen

    write_seen(folder / "predictions", {of: learned.column(f"{of}_id").combine_chunks() for of in OF})


def _say_where(summary: dict[str, Any], folder: Path, console: "Console") -> None:
    console.print(f"{summary['bytes']:,} bytes; summary in {shown(folder / 'summary.json')}")


if __name__ == "__main__":
    main()
