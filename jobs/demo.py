"""The whole loop on real ratings: ``make demo``, or ``python -m jobs.demo data=ml_latest_small table=unified``."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.launch import job, shown
from recsys.datasets.prepare import prepare
from recsys.runtime.display import ProgressDisplay
from recsys.runtime.online import Trained, train_online
from recsys.runtime.settings import build_settings
from recsys.runtime.summary import summarize, write_run_report, write_summary
from recsys.serving import Ranker
from recsys.training.report import format_value, label_of


@job("demo")
def main(config: dict[str, Any], folder: Path) -> None:
    """Prepare the data, replay it through Kafka, learn online, then rank one user's films from Redis alone."""
    console = Console()
    settings = build_settings(config, folder)
    _prepare(config, console)
    console.print(f"replaying {settings.data_name} through the pipeline (Kafka, Ray and Redis start first)")
    with (
        ProgressDisplay(console, f"learning {settings.data_name} online") as display,
        train_online(settings, console.print, display) as trained,
    ):
        summary = summarize(trained)
        write_summary(folder / "summary.json", summary)
        write_run_report(folder / "report.html", trained, summary)
        console.print(_figures(summary))
        console.print(_top_films(trained, config["user"], config["k"]))
    console.print(f"report: {shown(folder / 'report.html')}   more: python -m jobs.rank user=… , python -m jobs.serve")


def _prepare(config: dict[str, Any], console: Console) -> None:
    named = os.environ.get("RECSYS_DATA")
    data = config["data"]
    prepare(
        data["name"],
        Path(data["folder"]),
        data_folder=Path(named) if named else None,
        on_progress=console.print,
    )


def _figures(summary: dict[str, Any]) -> Table:
    table = Table(title="what happened", show_header=False)
    for key, value in summary.items():
        if key != "versions":
            table.add_row(label_of(key), format_value(key, value))
    return table


def _top_films(trained: Trained, user: int | str | None, k: int) -> Table:
    """One user's best candidates by title, scored from Redis."""
    asked = trained.features[-1].users()[-1] if user is None else user
    ranking = Ranker.connect(trained.redis_url, trained.settings.layout.model).rank(asked, k=k)
    table = Table(title=f"top {k} for user {asked}, from Redis")
    for column in ("", "title", "score"):
        table.add_column(column)
    for at, (title, score) in enumerate(zip(ranking.titles, ranking.scores, strict=True), 1):
        table.add_row(str(at), title, f"{score:.3f}")
    return table


if __name__ == "__main__":
    main()
