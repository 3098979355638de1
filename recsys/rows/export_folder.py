"""What the folder of an exported run is made of: names that who writes it and who reads it both know."""

import hashlib
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST, DENSE_FILE, FEATURES_FILE = "export.json", "dense.safetensors", "features.json"
PROGRAM_FILE = "dense.pt2"  # for other runtimes: not read here
_CHUNK_BYTES = 1 << 20


def sums_of(path: Path) -> dict[str, Any]:
    """The bytes and the SHA-256 sum of a file."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return {"bytes": num_bytes, "sha256": digest.hexdigest()}
