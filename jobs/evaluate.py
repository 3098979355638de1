"""Score recorded examples with what is served: ``python -m jobs.evaluate examples=FILE export=runs/<time>/export``.

Out of an export, or out of Redis (``redis.url=``, ``run=``). Leaves ``metrics.json`` and ``predictions.parquet`` in the
run's folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jobs.launch import job, shown
from jobs.sections import Served, Text
from recsys.errors import ConfigError
from recsys.fields import AtLeast, build

if TYPE_CHECKING:
    from recsys.serving.served import Served as ServedModel


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """``batch``: how many examples are scored at once."""

    max_examples: Annotated[int, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Served):
    """What to score, and with what."""

    examples: Path
    group: Text | None
    export: Path | None
    batch: ScoredBatch

    def __post_init__(self) -> None:
        if self.export is not None and (self.run is not None or self.redis.url is not None):
            raise ConfigError(f"export={self.export} is scored without Redis; leave out run= and redis.url=")


@job("evaluate")
def main(config: dict[str, Any], folder: Path) -> None:
    """Predict, write the predictions, and judge them."""
    settings = build(EvaluateSettings, config, "")

    from recsys.tabular.checking import open_file
    from recsys.training.keeping import write_json
    from recsys.training.predicting import predict_file

    with _served(settings) as served:
        run, versions = served.current()
        recommender, versions = run.at(versions)
        examples = open_file(settings.examples, recommender.features, settings.group)
        folder.mkdir(parents=True, exist_ok=True)
        found = predict_file(
            recommender, run.rows, examples, folder / "predictions.parquet", batch_size=settings.batch.max_examples
        )
    write_json(folder / "metrics.json", {**found, "versions": vars(versions), "examples": str(settings.examples)})
    figures = ("auc", "gauc", "logloss", "normalized_entropy", "calibration")
    print("  ".join(f"{name} {found[name]:.4f}" for name in figures if name in found))
    print(f"{found['num_examples']:,} examples by {versions.run}; in {shown(folder / 'metrics.json')}")


@contextmanager
def _served(settings: EvaluateSettings) -> "Iterator[ServedModel]":
    """The export, or what is published."""
    from recsys.runtime.latest import open_redis
    from recsys.serving.exported import Exported
    from recsys.serving.published import Published

    if settings.export is not None:
        yield Exported(settings.export)
        return
    with open_redis(settings.redis.url, settings.run) as url:
        yield Published(url, settings.serving.model)


if __name__ == "__main__":
    main()
