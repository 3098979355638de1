"""Maps that a stage of training leaves: a few bits of each id of some tables, looked up ever after.

Like a bucket map one goes with the blueprint, as JSON: whoever rebuilds the recommender has it.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from recsys.errors import DataError, unknown
from recsys.tables.bucket_map import PackedCodes

FORMAT = 1


class OfTable(Protocol):
    """What a map holds of one table: ``packed`` bits, and numbers that say what they are."""

    packed: PackedCodes

    def about(self) -> dict[str, Any]:
        """All but the bits, as JSON."""

    @classmethod
    def unpacked(cls, data: Any, about: Mapping[str, Any]) -> Self:
        """Of the bits' bytes and what ``about`` said."""


@dataclass(frozen=True, kw_only=True)
class IdMap:
    """What is known of the ids of several tables, by which ``method``, from training on the data set ``data``.

    ``made_by`` tells a user how to have one.
    """

    of_table: ClassVar[type[Any]]
    made_by: ClassVar[str]

    method: str
    data: str
    tables: Mapping[str, Any]

    def about(self) -> dict[str, Any]:
        """All but the bits, as JSON."""
        tables = {name: of_table.about() for name, of_table in self.tables.items()}
        return {"format": FORMAT, "method": self.method, "data": self.data, "tables": tables}

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the checksum of all of them."""
        said = self.about()
        for name, of_table in self.tables.items():
            said["tables"][name]["packed"] = base64.b64encode(of_table.packed.data.tobytes()).decode()
        return {**said, "sha256": _checksum(said)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The map that ``to_json`` described; DataError where it is another, or none."""
        said = {name: value for name, value in saved.items() if name != "sha256"}
        if saved.get("format") != FORMAT:
            raise unknown("format of a map of ids", saved.get("format"), [FORMAT])
        if saved.get("sha256") != _checksum(said):
            raise DataError("a map of ids has changed since it was made (its checksum differs); make it anew")
        packed = {name: base64.b64decode(fields["packed"], validate=True) for name, fields in said["tables"].items()}
        return cls.unpacked({name: np.frombuffer(data, np.uint8) for name, data in packed.items()}, said)

    @classmethod
    def given(cls, said: Path | Mapping[str, Any]) -> Self:
        """What ``table.map`` gives: the map itself as JSON, or its file. Errors as of from_json and ``read_id_map``."""
        if isinstance(said, Mapping):
            return cls.from_json(said)
        from recsys.tables.id_files import read_id_map  # needs safetensors, which serving does without

        return read_id_map(said, cls)

    @classmethod
    def unpacked(cls, data: Mapping[str, Any], about: Mapping[str, Any]) -> Self:
        """Of the bytes of each table, and what ``about`` said."""
        tables = {name: cls.of_table.unpacked(data[name], fields) for name, fields in about["tables"].items()}
        return cls(method=about["method"], data=about["data"], tables=tables)


def _checksum(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
