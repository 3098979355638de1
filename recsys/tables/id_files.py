"""Maps of ids in safetensors files: the bits of each table, and what they are."""

import json
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.errors import ConfigError, DataError, RecsysError
from recsys.tables.id_map import IdMap

M = TypeVar("M", bound=IdMap)
_ABOUT = "map"


def write_id_map(path: Path, made: IdMap) -> None:
    """Write a map, making its folder where absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: of_table.packed.data for name, of_table in made.tables.items()}
    about = {**made.about(), "sha256": made.to_json()["sha256"]}
    save_file(tensors, path, metadata={_ABOUT: json.dumps(about)})


def read_id_map(path: Path, kind: type[M], data: str | None = None) -> M:
    """The map in a file, made for the data set ``data`` where the caller has one.

    ConfigError where there is no file, or it is for another data set; DataError where it is not as it was written.
    """
    if not path.is_file():
        raise ConfigError(f"table.map={path}: there is no such file; {kind.made_by} makes one")
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})[_ABOUT])
            found = kind.unpacked({name: file.get_tensor(name) for name in about["tables"]}, about)
        if found.to_json()["sha256"] != about["sha256"]:
            raise DataError("its checksum differs")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = (
            str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}, {str(error).splitlines()[0]}"
        )
        raise DataError(f"table.map={path} is no map of this kind ({reason}); make it anew") from error
    if data is not None and found.data != data:
        raise ConfigError(
            f"table.map={path} was made for data set {found.data!r}, not {data!r}; {kind.made_by} makes one of {data!r}"
        )
    return found
