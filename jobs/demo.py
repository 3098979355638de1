"""The whole loop on real ratings: ``make demo``, or ``python -m jobs.demo data=ml_latest_small table=unified``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jobs.launch import job, shown
from recsys.errors import ConfigError
from recsys.fields import AtLeast, Port, build

if TYPE_CHECKING:
    from rich.table import Table

    from recsys.runtime.online import Trained


@dataclass(frozen=True, kw_only=True)
class ShownSettings:
    """Whose films to show at the end (None: the last user's seen), how many, and whether on a page meanwhile."""

    user: int | str | None
    k: Annotated[int, AtLeast(1)]
    page: bool
    page_port: Port | None


@job("demo")
def main(config: dict[str, Any], folder: Path) -> None:
    """Prepare the data, replay it through Kafka, learn online, then rank one user's films from Redis alone."""
    show = build(ShownSettings, {name: config.pop(name) for name in ("user", "k", "page", "page_port")}, "")
    if config["evaluation"] is not None:
        raise ConfigError("evaluation is set: an experiment is run by python -m jobs.online; leave it out")

    from recsys.runtime.settings import build_settings

    settings = build_settings(config, folder)
    folder = settings.folder

    from rich.console import Console

    from recsys.datasets.prepare import prepare
    from recsys.runtime.display import ProgressDisplay
    from recsys.runtime.online import nothing_beside, train_online
    from recsys.runtime.page import page_beside
    from recsys.runtime.summary import shortfalls, summarize, write_run_report, write_summary

    console = Console()
    prepare(settings.data_name, settings.data_folder, data_folder=_data_folder(), on_progress=console.print)
    console.print(f"replaying {settings.data_name} through the pipeline (Kafka, Ray and Redis start first)")
    with (
        ProgressDisplay(console, f"learning {settings.data_name} online") as display,
        train_online(
            settings,
            console.print,
            display,
            page_beside(settings, show.page_port, console.print) if show.page else nothing_beside,
        ) as trained,
    ):
        summary = summarize(trained)
        write_summary(folder / "summary.json", summary)
        write_run_report(folder / "report.html", trained, summary)
        for line in shortfalls(summary):
            console.print(f"[bold red]{line}")
        console.print(_figures(summary))
        console.print(_top_films(trained, show))
    console.print(f"report: {shown(folder / 'report.html')}   more: python -m jobs.rank user=… , python -m jobs.serve")


def _data_folder() -> Path | None:
    """Where the user keeps data sets."""
    named = os.environ.get("RECSYS_DATA")
    return Path(named) if named else None


def _figures(summary: dict[str, Any]) -> "Table":
    from rich.table import Table

    from recsys.training.report import format_value, label_of

    table = Table(title="what happened", show_header=False)
    for key, value in summary.items():
        if key != "versions":
            table.add_row(label_of(key), format_value(key, value))
    return table


def _top_films(trained: "Trained", show: ShownSettings) -> "Table":
    """One user's best candidates by title, scored from Redis."""
    from rich.table import Table

    from recsys.serving import Ranker

    user = trained.features[-1].users()[-1] if show.user is None else show.user
    ranking = Ranker.connect(trained.redis_url, trained.settings.layout.model).rank(user, k=show.k)
    table = Table(title=f"top {show.k} for user {user}, from Redis")
    for column in ("", "title", "score"):
        table.add_column(column)
    for at, (title, score) in enumerate(zip(ranking.titles, ranking.scores, strict=True), 1):
        table.add_row(str(at), title, f"{score:.3f}")
    return table


if __name__ == "__main__":
    main()
