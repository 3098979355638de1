"""Train in epochs on recorded events: ``python -m jobs.train table=unified model=dcnv2``."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.launch import job, shown

if TYPE_CHECKING:
    from rich.console import Console

    from recsys.rows.store import RowGroup, RowStore
    from recsys.runtime.settings import TrainConfig
    from recsys.training.fit import Joined
    from recsys.training.trainer import Trainer


@job("train")
def main(config: dict[str, Any], folder: Path) -> None:
    """Join, split by time, train, judge on the last part; leave summary.json and a checkpoint in ``folder``."""
    from recsys.fields import build
    from recsys.runtime.settings import TrainConfig, build_blueprint

    settings = build(TrainConfig, config, "")
    blueprint = build_blueprint(config)

    from rich.console import Console

    from recsys.models.recommender import Recommender
    from recsys.training.checkpoint import Checkpoint, save_checkpoint
    from recsys.training.fit import evaluate
    from recsys.training.trainer import Trainer

    console = Console()
    joined = _join(settings, folder, console)
    train, valid, test = settings.split.cut(joined.examples)
    recommender = Recommender(blueprint)
    with _rows(settings, recommender.groups, console) as store:
        trainer = Trainer(recommender, store)
        trainer.start()
        history = _fit(settings, trainer, train, valid, console)
        result = evaluate(trainer, test)
        state = {"features": joined.features.to_json(), "position": []}
        about = {"data": settings.data.name, "source": "files", "time_ms": joined.time_ms}
        rows = store.snapshot()
        checkpoint = Checkpoint(blueprint=blueprint, joiners=[state], about=about, rows=rows)
        save_checkpoint(folder / "checkpoints", checkpoint)
        summary = {
            "test": result,
            "valid": history,
            "examples": joined.examples.num_rows,
            "rows": store.num_rows(),
            "bytes": store.nbytes,
        }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(
        f"test AUC {result['auc']:.4f}  logloss {result['logloss']:.4f}  calibration {result['calibration']:.3f}  "
        f"{summary['bytes']:,} bytes; summary in {shown(folder / 'summary.json')}"
    )


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
