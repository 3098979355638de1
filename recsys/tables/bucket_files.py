"""Bucket maps in safetensors files: the packed codes of each table, and how the map was found."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.errors import ConfigError, DataError, RecsysError
from recsys.tables.bucket_map import BucketMap, Buckets, PackedCodes

_ABOUT = "map"


def write_map(path: Path, bucket_map: BucketMap) -> None:
    """Write a map, making its folder where absent."""
    described = bucket_map.to_json()
    for fields in described["tables"].values():
        del fields["codes"]
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: buckets.codes.data for name, buckets in bucket_map.tables.items()}
    save_file(tensors, path, metadata={_ABOUT: json.dumps(described)})


def read_map(path: Path, data: str | None = None) -> BucketMap:
    """The map in a file, made for the data set ``data`` where the caller has one.

    ConfigError where there is no file, or it is for another data set; DataError where it is not as it was written.
    """
    if not path.is_file():
        raise ConfigError(f"table.map={path}: there is no such file; make it: python -m jobs.cluster map={path}")
    try:
        with safe_open(path, "numpy") as file:
            described = json.loads((file.metadata() or {})[_ABOUT])
            tensors = {name: file.get_tensor(name) for name in described["tables"]}
        found = BucketMap.from_json({**described, "tables": _with_codes(described["tables"], tensors)})
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = (
            str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}, {str(error).splitlines()[0]}"
        )
        raise DataError(
            f"table.map={path} is no bucket map ({reason}); make it anew: python -m jobs.cluster"
        ) from error
    if data is not None and found.data != data:
        raise ConfigError(
            f"table.map={path} was made for data set {found.data!r}, not {data!r}; make one of {data!r} with "
            "python -m jobs.cluster, or name another file"
        )
    return found


def _with_codes(tables: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """The tables' JSON with the codes in its place."""
    return {
        name: Buckets(
            PackedCodes(tensors[name], fields["num_ids"], int(fields["num_buckets"]).bit_length()),
            fields["num_buckets"],
            fields["num_own"],
        ).to_json()
        for name, fields in tables.items()
    }
