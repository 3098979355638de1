"""Learn from a stream as it comes, and keep the serving cache up to date: ``python -m jobs.online data=ml100k``."""

from pathlib import Path
from typing import Any

from jobs.launch import job, shown


@job("online")
def main(config: dict[str, Any], folder: Path) -> None:
    """Train on the stream, publish to Redis, and leave summary.json, report.html and a checkpoint in ``folder``.

    With ``evaluation``, an experiment is run in this process instead: see recsys.training.rehearsal.
    """
    if config["evaluation"] is not None:
        from recsys.runtime.rehearsing import run_rehearsal

        return run_rehearsal(config, folder)

    from recsys.runtime.settings import build_settings

    settings = build_settings(config, folder)
    folder = settings.folder

    from rich.console import Console

    from recsys.runtime.display import ProgressDisplay
    from recsys.runtime.online import train_online
    from recsys.runtime.summary import shortfalls, summarize, write_run_report, write_summary

    console = Console()
    with (
        ProgressDisplay(console, "learning online") as display,
        train_online(settings, console.print, display) as trained,
    ):
        summary = summarize(trained)
        write_summary(folder / "summary.json", summary)
        write_run_report(folder / "report.html", trained, summary)
        for line in shortfalls(summary):
            console.print(f"[bold red]{line}")
    console.print(f"summary in {shown(folder / 'summary.json')}, report in {shown(folder / 'report.html')}")


if __name__ == "__main__":
    main()
