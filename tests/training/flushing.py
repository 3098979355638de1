"""Processes that are killed when what they wrote was flushed."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def killed_once_flushed(source: str, folder: Path) -> None:
    """Run a program, with ``folder`` as its argument, until it prints "flushed"; then SIGKILL."""
    place = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", source, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(place.parents[1])])},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "flushed\n"
        child.send_signal(signal.SIGKILL)
