"""Maps of kept ids in safetensors files: the bits of each table, and what chose them."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.errors import ConfigError, DataError, RecsysError
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.kept_map import KeptIds, KeptMap

_ABOUT = "map"


def write_kept(path: Path, kept: KeptMap) -> None:
    """Write a map, making its folder where absent."""
    described = kept.to_json()
    for fields in described["tables"].values():
        del fields["bits"]
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: ids.bits.data for name, ids in kept.tables.items()}
    save_file(tensors, path, metadata={_ABOUT: json.dumps(described)})


def read_kept(path: Path, data: str | None = None) -> KeptMap:
    """The map in a file, made for the data set ``data`` where the caller has one.

    ConfigError where there is no file, or it is for another data set; DataError where it is not as it was written.
    """
    if not path.is_file():
        raise ConfigError(f"table.map={path}: there is no such file; python -m jobs.train table=optembed makes one")
    try:
        with safe_open(path, "numpy") as file:
            described = json.loads((file.metadata() or {})[_ABOUT])
            ids = {
                name: KeptIds(PackedCodes(file.get_tensor(name), fields["num_ids"], 1), fields["width"]).to_json()
                for name, fields in described["tables"].items()
            }
        found = KeptMap.from_json({**described, "tables": ids})
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = (
            str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}, {str(error).splitlines()[0]}"
        )
        raise DataError(f"table.map={path} is no map of kept ids ({reason}); make it anew") from error
    if data is not None and found.data != data:
        raise ConfigError(
            f"table.map={path} was made for data set {found.data!r}, not {data!r}; train table=optembed on {data!r}, "
            "or name another file"
        )
    return found
