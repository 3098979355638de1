"""Train in epochs on recorded events: ``python -m jobs.train table=unified model=dcnv2``."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from jobs.launch import job, shown
from recsys.batches.join import build_join_config
from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import event_files
from recsys.errors import unknown
from recsys.models.recommender import Recommender
from recsys.rows.local import LocalRows
from recsys.rows.store import RowGroup, RowStore
from recsys.runtime.settings import build_blueprint
from recsys.streams.parquet import ParquetSource
from recsys.training.checkpoint import Checkpoint, save_checkpoint
from recsys.training.fit import Joined, Splits, evaluate, fit, join_recorded
from recsys.training.trainer import Trainer


@job("train")
def main(config: dict[str, Any], folder: Path) -> None:
    """Join, split by time, train, judge on the last part; leave summary.json and a checkpoint in ``folder``."""
    console = Console()
    blueprint = build_blueprint(config)
    splits = Splits(**config["split"])
    joined = _join(config, folder, console)
    train, valid, test = splits.cut(joined.examples)
    recommender = Recommender(blueprint)
    with _rows(config, recommender.groups) as store:
        trainer = Trainer(recommender, store)
        trainer.start()
        history = _fit(config, trainer, train, valid, console)
        result = evaluate(trainer, test)
        state = {"features": joined.features.to_json(), "position": []}
        about = {"data": config["data"]["name"], "source": "files", "time_ms": joined.time_ms}
        save_checkpoint(folder / "checkpoint", Checkpoint(blueprint, store.snapshot(), [state], about))
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


def _join(config: dict[str, Any], folder: Path, console: Console) -> Joined:
    data = config["data"]
    prepared = open_prepared(Path(data["folder"]), data["name"])
    partitions = config["source"]["num_partitions"]
    files = event_files(prepared, config["replay"]["limit"], folder / "events")
    with console.status(f"joining the events of {data['name']}"):
        return join_recorded(
            ParquetSource(files, partitions),
            partitions,
            build_join_config(config["join"]),
            build_blueprint(config).features,
            folder / "dead-letters",
        )


@contextmanager
def _rows(config: dict[str, Any], groups: Sequence[RowGroup]) -> Iterator[RowStore]:
    """The rows: in this process, or on a parameter server."""
    kind = config["store"]["kind"]
    if kind == "local":
        yield LocalRows(groups)
    elif kind == "ray":
        from recsys.runtime.cluster import ray_session
        from recsys.runtime.shards import start_shards

        with ray_session(config["ray"]["address"]):
            yield start_shards(groups, config["store"]["shards"])
    else:
        raise unknown("store", kind, ["local", "ray"])


def _fit(config: dict[str, Any], trainer: Trainer, train: Any, valid: Any, console: Console) -> list[dict[str, float]]:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=None)
        return fit(
            trainer,
            train,
            valid,
            epochs=config["epochs"],
            batch_size=config["batch"]["max_examples"],
            seed=config["seed"],
            on_step=lambda step, steps: progress.update(task, completed=step, total=steps),
            on_epoch=lambda epoch, found: console.print(
                f"epoch {epoch + 1}: valid AUC {found['auc']:.4f}  logloss {found['logloss']:.4f}"
            ),
        )


if __name__ == "__main__":
    main()
