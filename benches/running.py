"""What the command of every benchmark does around its measuring."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benches.result import Result, print_results
from recsys.errors import RecsysError

Told = Callable[[str], None]


def command_line(description: str | None, *, quick: bool = True) -> argparse.ArgumentParser:
    """A parser that knows ``--folder``, and ``--quick`` where there is such a form."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if quick:
        parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    return parser


def run(title: str, measure: Callable[[Told], Sequence[Result]]) -> int:
    """Measure, telling what is under way and since when, and print; the exit status.

    That is 2 for a mistake of the user's. Whether targets are met is for the reader.
    """
    console, start = Console(), time.perf_counter()

    def told(what: str) -> None:
        console.print(f"{time.perf_counter() - start:6.1f} s  {what}", highlight=False, soft_wrap=True)

    def measured() -> int:
        print_results(console, title, measure(told))
        return 0

    return or_error(measured)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The results of an earlier start of a benchmark that goes on where it stopped, a line of JSON each."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Leave a result for the next start."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def or_error(act: Callable[[], int]) -> int:
    """The exit status that ``act`` returns; 2 and one line for a mistake of the user's."""
    try:
        return act()
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
