"""Write a trained run to a folder that scores without Redis: ``python -m jobs.export run=runs/<time>``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.launch import job, shown
from jobs.sections import Text
from recsys.fields import build


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What to export, and where to."""

    run: Path
    to: Path | None
    checkpoints: Text | None
    row_format: Literal["float32", "float16", "int8"]
    program: bool


@job("export")
def main(config: dict[str, Any], folder: Path) -> None:
    """Load the run's last checkpoint and write what serving needs of it."""
    settings = build(ExportSettings, config, "")

    from recsys.features.state import FeatureState
    from recsys.models.recommender import Recommender
    from recsys.rows.local import LocalRows
    from recsys.training.checkpoint import load_checkpoint
    from recsys.training.export import export_run

    to = settings.to or settings.run / "export"
    checkpoint = load_checkpoint(settings.checkpoints or settings.run / "checkpoints")
    store = LocalRows(Recommender(checkpoint.blueprint).groups)
    store.restore(checkpoint.rows)
    manifest = export_run(
        to,
        settings.run.name,
        blueprint=checkpoint.blueprint,
        store=store,
        features=[FeatureState.from_json(dict(state["features"])) for state in checkpoint.joiners],
        time_ms=checkpoint.about["time_ms"],
        row_format=settings.row_format,
        with_program=settings.program,
    )
    num_bytes = sum(sums["bytes"] for sums in manifest["files"].values())
    print(f"exported {settings.run} to {shown(to)}: {num_bytes:,} bytes; python -m jobs.evaluate export={shown(to)}")
    if settings.program and manifest["no_program"]:
        print(f"without dense.pt2: {manifest['no_program']}")


if __name__ == "__main__":
    main()
