"""Rank candidates for a user, out of Redis: ``python -m jobs.rank user=7 k=10``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import job
from jobs.sections import Served
from recsys.fields import AtLeast, build


@dataclass(frozen=True, kw_only=True)
class RankSettings(Served):
    """For whom, and of what."""

    user: int | str
    candidates: tuple[int | str, ...] | None
    k: Annotated[int, AtLeast(1)]
    time_ms: Annotated[int, AtLeast(0)] | None


@job("rank")
def main(config: dict[str, Any], folder: Path) -> None:
    """Print the best ``k`` candidates (by default of all items but those the user liked lately) with their scores."""
    settings = build(RankSettings, config, "")

    from rich.console import Console
    from rich.table import Table

    from recsys.runtime.latest import open_redis
    from recsys.serving import Ranker

    context = {} if settings.time_ms is None else {"time_ms": settings.time_ms}
    with open_redis(settings.redis.url, settings.run) as url:
        ranker = Ranker.connect(url, settings.serving.model)
        ranking = ranker.rank(settings.user, settings.candidates, context, settings.k)
    table = Table(title=f"user {settings.user}, version {ranking.versions.version} of {ranking.versions.run}")
    for column in ("", "item", "title", "score"):
        table.add_column(column)
    for at, (item, title, score) in enumerate(zip(ranking.items, ranking.titles, ranking.scores, strict=True), 1):
        table.add_row(str(at), str(item), title, f"{score:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
