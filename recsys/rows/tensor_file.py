"""Safetensors files read by numpy alone: a mapped file, of which only what is touched is read.

A file is eight bytes of length, so much JSON that names each tensor, its type, shape and bytes, and then the bytes; see
the format's own description. Nothing in it is executed. Writing is safetensors' own.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError

_LENGTH_BYTES = 8
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U16": "<u2",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip


def map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file by name, read-only; DataError where it is none, or shorter than it says."""
    try:
        data = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
        if length > len(data) - _LENGTH_BYTES:
            raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes())
        body = data[_LENGTH_BYTES + length :]
        return {name: _tensor(body, about) for name, about in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no safetensors file ({str(error).splitlines()[0]}); export the run again"
        ) from error


def _tensor(body: npt.NDArray[np.uint8], about: dict[str, Any]) -> npt.NDArray[Any]:
    start, end = about["data_offsets"]
    if not 0 <= start <= end <= len(body):
        raise ValueError(f"bytes {start} to {end} of {len(body)}")
    return body[start:end].view(_DTYPES[about["dtype"]]).reshape(about["shape"])
