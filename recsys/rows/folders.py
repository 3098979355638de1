"""A folder of files that is there whole or not at all, and that tells when it was altered.

Files are written beside their place and published by one rename, with a manifest of their sizes and SHA-256 sums.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from recsys.errors import DataError

_MANIFEST = "manifest.json"


def staged(folder: Path) -> Path:
    """An empty folder beside ``folder`` to write to."""
    beside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    return beside


def publish(folder: Path, manifest: dict[str, Any]) -> None:
    """Put what was staged in the place of ``folder``: readers find the old one or the new one at any time."""
    beside = folder.with_name(folder.name + ".writing")
    files = {path.name: _fingerprint(path) for path in sorted(beside.iterdir())}
    (beside / _MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=1))
    for path in (*beside.iterdir(), beside):
        _to_disk(path)
    if folder.exists():
        shutil.rmtree(_replaced(folder), ignore_errors=True)
        os.replace(folder, _replaced(folder))
    os.replace(beside, folder)
    shutil.rmtree(_replaced(folder), ignore_errors=True)


def opened(folder: Path, *, what: str, version: int, fields: set[str]) -> tuple[Path, dict[str, Any]]:
    """The folder to read from and its manifest, whose files are checked; DataError names what is missing or altered.

    ``what`` is what the folder holds, ``version`` the manifest's ``format``, ``fields`` what it must say.
    """
    if not folder.exists() and _replaced(folder).exists():
        folder = _replaced(folder)  # it was cut off between the two renames
    manifest = _read_manifest(folder, what, version, {*fields, "files"})
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _fingerprint(path) != expected:
            raise DataError(f"{what} file {path} is missing or altered; restore it, or train again")
    return folder, manifest


def manifest_sum(folder: Path) -> str:
    """The SHA-256 of a folder's manifest, which holds those of its files."""
    return str(_fingerprint(folder / _MANIFEST)["sha256"])


def _read_manifest(folder: Path, what: str, version: int, fields: set[str]) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise DataError(f"no {what} in {folder}: {_MANIFEST} is not there; give the folder of a trained run")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{what} file {path} is altered ({error}); restore it, or train again") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise DataError(f"{what} file {path} is altered (it names no format); restore it, or train again")
    if manifest["format"] != version:
        raise DataError(f"{what} {folder} has format {manifest['format']!r}, this version reads {version}")
    if missing := fields - set(manifest):
        raise DataError(f"{what} file {path} is altered (it lacks {sorted(missing)}); restore it, or train again")
    return manifest


def _replaced(folder: Path) -> Path:
    """Where the old folder waits until the new one is in its place."""
    return folder.with_name(folder.name + ".replaced")


def _to_disk(path: Path) -> None:
    """Have a file, or the names in a folder, survive a failing machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
