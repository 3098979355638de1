"""Rank candidates for a user out of Redis: ``python -m jobs.rank user=7 k=10``."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.launch import job
from recsys.runtime.latest import open_redis
from recsys.serving import Ranker


@job("rank")
def main(config: dict[str, Any], folder: Path) -> None:
    """Print the best ``k`` candidates (by default of all items but those the user liked lately) with their scores."""
    run = config["run"]
    context = {} if config["time_ms"] is None else {"time_ms": config["time_ms"]}
    with open_redis(config["redis"]["url"], None if run is None else Path(run)) as url:
        ranking = Ranker.connect(url, config["model"]).rank(config["user"], config["candidates"], context, config["k"])
    table = Table(title=f"user {config['user']}, version {ranking.versions.version} of {ranking.versions.run}")
    for column in ("", "item", "title", "score"):
        table.add_column(column)
    for at, (item, title, score) in enumerate(zip(ranking.items, ranking.titles, ranking.scores, strict=True), 1):
        table.add_row(str(at), str(item), title, f"{score:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
