"""Disks that are small, and so soon full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A disk of a size (``64k``, ``1m``) at a place, for the time of the block; the test is skipped for who can not."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a disk takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
