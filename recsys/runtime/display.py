"""A live table of an online run, or a line every few seconds where there is no terminal."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from recsys.runtime.lag import furthest_behind, total_lag
from recsys.runtime.watching import Progress

_LINE_SECONDS = 5.0


class ProgressDisplay:
    """Call it with each Progress; a context manager, so that the terminal is left in order."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._last_line = 0.0
        self._untold: Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._untold is not None:
            self._print(self._untold)

    def __call__(self, progress: Progress) -> None:
        """Show one look at the run."""
        if self._console.is_terminal:
            self._live.update(_table(self._title, progress))
        elif time.monotonic() - self._last_line > _LINE_SECONDS:
            self._print(progress)
        else:
            self._untold = progress

    def _print(self, progress: Progress) -> None:
        self._last_line, self._untold = time.monotonic(), None
        self._console.print("  ".join(f"{name} {value}" for name, value in _cells(progress)), soft_wrap=True)


def _table(title: str, progress: Progress) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in _cells(progress):
        table.add_row(name, value)
    return table


def _cells(progress: Progress) -> list[tuple[str, str]]:
    since, lag = progress.last_sync_seconds_ago, total_lag(progress.lag)
    cells = [
        ("time", f"{progress.seconds:.0f} s"),
        ("events", f"{progress.events:,}"),
        ("events/s", f"{progress.events_per_second:,.0f}"),
        ("examples learned", f"{progress.examples:,}"),
        ("lag", f"{lag.events:,}"),
        ("lag of partitions", furthest_behind(progress.lag) or "none"),
        ("progressive AUC", f"{progress.auc:.4f}"),
        ("calibration", f"{progress.calibration:.3f}"),
        ("rows", f"{progress.rows:,}"),
        ("last sync", "none yet" if since != since else f"{since:.1f} s ago"),
        ("checkpoint", f"{progress.checkpoint_seconds_ago:.0f} s ago"),
    ]
    if progress.recoveries:
        cells.append(("recoveries", f"{progress.recoveries}"))
    return cells + ([("problem", progress.problem)] if progress.problem else [])
