"""Train in epochs on recorded events: ``python -m jobs.train table=unified model=dcnv2``."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.launch import job, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from recsys.rows.store import RowGroup, RowStore
    from recsys.runtime.sections import TrainConfig
    from recsys.training.fit import Joined
    from recsys.training.trainer import Trainer


@job("train")
def main(config: dict[str, Any], folder: Path) -> None:
    """Join, split by time, train, judge on the last part; leave summary.json and a checkpoint in ``folder``.

    Of an archive, or with ``order=recorded``: predict, then learn all of it as it came.
    """
    from recsys.fields import build
    from recsys.runtime.sections import TrainConfig
    from recsys.runtime.settings import build_blueprint

    settings = build(TrainConfig, config, "")
    blueprint = build_blueprint(config)

    from rich.console import Console

    from recsys.models.recommender import Recommender
    from recsys.training.checkpoint import Checkpoint, save_checkpoint
    from recsys.training.slices import OF, write_seen
    from recsys.training.trainer import Trainer

    console = Console()
    recorded = _recorded(settings, folder, console)
    recommender = Recommender(blueprint)
    with _rows(settings, recommender.groups, console) as store:
        trainer = Trainer(recommender, store)
        trainer.start()
        learn = _learn_in_order if settings.is_in_order else _learn_shuffled
        learned, figures = learn(settings, trainer, recorded.examples, console)
        state = {"features": recorded.features.to_json(), "position": []}
        about = {"data": settings.data.name, "source": settings.source.kind, "time_ms": recorded.time_ms}
        rows, num_rows = store.snapshot(), store.num_rows()
        checkpoint = Checkpoint(blueprint=blueprint, joiners=[state], about=about, rows=rows)
        save_checkpoint(folder / "checkpoints", checkpoint)
        summary = {
            **figures,
            "examples": recorded.examples.num_rows,
            "rows": num_rows,
            "bytes": store.nbytes,
            "tables": recommender.embeddings.sizes(num_rows),
        }
    write_seen(folder / "predictions", {of: learned.column(f"{of}_id").combine_chunks() for of in OF})
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(f"{summary['bytes']:,} bytes; summary in {shown(folder / 'summary.json')}")


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


def _learn_in_order(
    settings: "TrainConfig", trainer: "Trainer", examples: "pa.Table", console: "Console"
) -> tuple["pa.Table", dict[str, Any]]:
    """Everything as it was recorded, an archive in its very batches: (what was learned, the figures of each epoch)."""
    from rich.progress import Progress

    from recsys.training.fit import batches_of, learn_in_order, recorded_batches

    history = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=None)
        for epoch in range(settings.epochs):
            if settings.source.kind == "archive":
                batches = recorded_batches(examples, trainer.recommender.features)
            else:
                batches = batches_of(examples, trainer.recommender.features, settings.batch.max_examples)
            predicted = learn_in_order(trainer, batches, lambda step: progress.update(task, completed=step))
            history.append({"all": predicted.over_last(1.0), "last_half": predicted.over_last(0.5)})
            auc = history[-1]["last_half"]["auc"]
            console.print(f"epoch {epoch + 1}: AUC of its last half, predicted before learned, {auc:.4f}")
    return examples, {"progressive": history}


def _learn_shuffled(
    settings: "TrainConfig", trainer: "Trainer", examples: "pa.Table", console: "Console"
) -> tuple["pa.Table", dict[str, Any]]:
    """All but the last examples, in epochs, judged on those: (what was learned, the figures)."""
    from recsys.training.fit import evaluate

    train, valid, test = settings.split.cut(examples)
    history = _fit(settings, trainer, train, valid, console)
    result = evaluate(trainer, test)
    console.print(
        f"test AUC {result['auc']:.4f}  logloss {result['logloss']:.4f}  calibration {result['calibration']:.3f}"
    )
    return train, {"test": result, "valid": history}


def _fit(
    settings: "TrainConfig", trainer: "Trainer", train: Any, valid: Any, console: "Console"
) -> list[dict[str, float]]:
    from rich.progress import Progress

    from recsys.training.fit import fit

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=None)
        return fit(
            trainer,
            train,
            valid,
            epochs=settings.epochs,
            batch_size=settings.batch.max_examples,
            seed=settings.seed,
            on_step=lambda step, steps: progress.update(task, completed=step, total=steps),
            on_epoch=lambda epoch, found: console.print(
                f"epoch {epoch + 1}: valid AUC {found['auc']:.4f}  logloss {found['logloss']:.4f}"
            ),
        )


if __name__ == "__main__":
    main()
