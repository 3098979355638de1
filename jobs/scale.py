"""Give a run that is under way another number of workers: ``python -m jobs.scale run=runs/<time> workers=3``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import job
from recsys.errors import ConfigError, DataError
from recsys.fields import AtLeast, build


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """Which run, and how many workers it shall have."""

    run: Path
    workers: Annotated[int, AtLeast(1)]


@job("scale")
def main(config: dict[str, Any], folder: Path) -> None:
    """Ask the run in a folder to go on with ``workers`` workers: they stop after a step, and others take over there."""
    settings = build(ScaleSettings, config, "")

    from recsys.runtime.watching import WORKERS_FILE

    if not (settings.run / "predictions").is_dir():
        raise DataError(f"no run in {settings.run}; give the folder of one that is under way")
    check_partitions(settings)
    beside = settings.run / f"{WORKERS_FILE}.writing"
    beside.write_text(f"{settings.workers}\n")
    os.replace(beside, settings.run / WORKERS_FILE)
    print(f"{settings.run} was asked to go on with {settings.workers} workers")


def check_partitions(settings: ScaleSettings) -> None:
    """Each worker needs a partition; how many there are is in the run's checkpoints, where they lie in its folder."""
    from recsys.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(settings.run / "checkpoints")
    names = checkpoints.names()
    if not names:
        return
    partitions = len(checkpoints.load_state(names[-1])[0].position)
    if settings.workers > partitions > 0:
        raise ConfigError(f"workers={settings.workers} for {partitions} partitions; each worker needs at least one")


if __name__ == "__main__":
    main()
