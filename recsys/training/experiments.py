"""The results of an experiment: a line of JSON a run, so that what has been run is not run again.

::

    {"key", "page", "data", "seed", "settings", "judged": {"live", "1", "10", …}, "rows", "bytes", "table_bytes", …}

``settings`` are the run's own, flat; what differs among the lines of a page is what it shows.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.errors import DataError
from recsys.training.metrics import ProgressiveMetrics

WINDOWS = 20
Line = dict[str, Any]


class Results:
    """The lines of one page."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[Line]:
        """All, in the order in which they came; DataError where one is none."""
        if not self._path.exists():
            return []
        return [self._read(text, at) for at, text in enumerate(self._path.read_text(encoding="utf-8").splitlines(), 1)]

    def has(self, key: str) -> bool:
        """Whether a run has left its line."""
        return any(line["key"] == key for line in self.lines())

    def add(self, line: Mapping[str, Any]) -> None:
        """Leave a line, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _read(self, text: str, at: int) -> Line:
        try:
            line: Line = json.loads(text)
            line["key"], line["settings"], line["judged"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._path}, line {at}: no result of a run ({error}); delete the line") from error
        return line


def flat(settings: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names and plain values.

    >>> dict(flat({"table": {"kind": "hash", "sizes": [1]}, "seed": 0}))
    {'table.kind': 'hash', 'table.sizes': [1], 'seed': 0}
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def figures_of(predicted: ProgressiveMetrics) -> dict[str, Any]:
    """What a page needs of the predictions of one copy: their figures, and their AUC window by window."""
    figures: dict[str, Any] = {name: round(value, 6) for name, value in predicted.over_last(1.0).items()}
    return {**figures, "windows": [round(auc, 5) for auc in predicted.windows(WINDOWS).auc]}
