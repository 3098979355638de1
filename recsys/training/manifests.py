"""The manifests of a run's checkpoints: which there are, what each adds to, and whether all of it is sound.

A checkpoint has a part a shard. A part that is an increment adds to the same part of the checkpoint's base, and so on,
down to one that is whole.
"""

import re
from collections.abc import Mapping
from typing import Any

from recsys.errors import DataError, RecsysError
from recsys.rows.folders import Folder

FORMAT = 3
_NAME = re.compile(r"checkpoint-(\d{6,})")


class Manifests:
    """What the manifests in ``folder`` say; DataError names what is missing, altered or does not fit together."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def begun(self) -> list[str]:
        """Checkpoints that are complete and those that are not, oldest first."""
        return sorted((name for name in self._folder.names() if _NAME.fullmatch(name)), key=number_of)

    def names(self) -> list[str]:
        """Those that are complete, oldest first."""
        return [name for name in self.begun() if (self._folder / name).is_published]

    def read(self, name: str) -> dict[str, Any]:
        """A manifest, checked: ``base``, ``parts`` and ``files``, and its ``sha256``."""
        return (self._folder / name).read_manifest(version=FORMAT, fields={"base", "parts", "files"})

    def chain(self, name: str) -> list[str]:
        """A checkpoint and all that it adds to, newest first."""
        manifest, chain = self.read(name), [name]
        while manifest["base"] is not None:
            name, manifest = self._base_of(name, manifest)
            chain.append(name)
        return chain

    def links(self, name: str, at: int) -> list[tuple[str, Mapping[str, Any]]]:
        """What makes up a part, the whole one first: (checkpoint, described part)."""
        manifest = self.read(name)
        described = manifest["parts"][at]
        links = [(name, described)]
        while described["since"] is not None:
            name, manifest = self._base_of(name, manifest)
            since, described = described["since"], manifest["parts"][at]
            if described["cursor"] != since:
                raise DataError(f"{self._folder / name} is of {described['cursor']}, what adds to it of after {since}")
            links.append((name, described))
        return links[::-1]

    def check_at_hand(self, name: str, manifest: Mapping[str, Any]) -> None:
        """DataError where a file is missing or of another size: without reading any."""
        sizes = (self._folder / name).sizes()
        for file, sums in _files(manifest).items():
            if file not in sizes:
                raise DataError(f"{self._folder / name}/{file} is missing")
            if sizes[file] != sums["bytes"]:
                raise DataError(f"{self._folder / name}/{file} has {sizes[file]:,} bytes, not {sums['bytes']:,}")

    def is_sound(self, name: str) -> bool:
        """Whether everything that is read to load a checkpoint is as it was written: reads all of it."""
        try:
            manifest = self.read(name)
            parts = [link for at in range(len(manifest["parts"])) for link in self.links(name, at)]
            for folder, described in [(name, manifest), *parts]:
                for file, sums in described["files"].items():
                    (self._folder / folder).read(file, sums)
        except RecsysError:
            return False
        return True

    def _base_of(self, name: str, manifest: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        base = manifest["base"]["name"]
        found = self.read(base)
        if found["sha256"] != manifest["base"]["sha256"]:
            raise DataError(f"{self._folder / base}/manifest.json is another than {name} adds to")
        return base, found


def number_of(name: str) -> int:
    """7 of ``checkpoint-000007``."""
    return int(name.removeprefix("checkpoint-"))


def name_of(number: int) -> str:
    """``checkpoint-000007`` of 7."""
    return f"checkpoint-{number:06}"


def _files(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All files of a checkpoint, with their sums."""
    files = dict(manifest["files"])
    for part in manifest["parts"]:
        files.update(part["files"])
    return files
