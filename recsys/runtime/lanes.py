"""Memory that a worker and a shard on one machine share: a step's arrays are written once and read in place.

Ray's own object store costs a call three times what its message does, for a megabyte: it makes, seals and maps an
object for each. Here a call carries only where its arrays lie. A lane has four regions: what is asked for, what is
answered, for reads and for pushes. It is one thread's; a region is used again when its last answer has come.
"""

import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import ServiceError

READ, READ_ANSWER, PUSH, PUSH_ANSWER = range(4)
_REGIONS = 4
FOLDER = Path("/dev/shm")
_ALIGNED = 64


class LaneLost(ServiceError):
    """There is no lane: no shared memory, or the other end is on another machine, or was made anew."""


class OtherEndGone(LaneLost):
    """There was a lane: who answered through it has died, or has given it up."""


class Laid(NamedTuple):
    """Arrays of several groups that lie in a region: (group, number of rows, width); width 0 is keys."""

    lengths: tuple[tuple[str, int, int], ...]


class Lane:
    """One end of it.

    >>> lane = Lane.create(1 << 12)
    >>> other = Lane.opened(lane.name)
    >>> laid = lane.put(PUSH, {"item": np.array([7, 8])}, {"item": np.ones((2, 3), np.float32)})
    >>> keys, rows = other.get(PUSH, *laid)
    >>> keys["item"].tolist(), rows["item"].shape
    ([7, 8], (2, 3))
    >>> lane.unlink()
    """

    def __init__(self, name: str, memory: mmap.mmap) -> None:
        self.name = name
        self._memory = np.frombuffer(memory, np.uint8)
        self.capacity = len(self._memory) // _REGIONS  # bytes of a region

    @classmethod
    def create(cls, capacity: int) -> "Lane":
        """A new lane whose regions hold so many bytes; LaneLost where there is no shared memory to be had."""
        name = f"recsys-{os.getpid()}-{secrets.token_hex(8)}"
        size = _REGIONS * -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            descriptor = os.open(FOLDER / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)  # not ftruncate: memory that is not there kills who writes
                return cls(name, mmap.mmap(descriptor, size))
            finally:
                os.close(descriptor)
        except OSError as error:
            (FOLDER / name).unlink(missing_ok=True)
            raise LaneLost(f"no shared memory in {FOLDER} ({error.strerror})") from error

    @classmethod
    def opened(cls, name: str) -> "Lane":
        """The other end; LaneLost where it does not lie on this machine."""
        try:
            descriptor = os.open(FOLDER / Path(name).name, os.O_RDWR)
            try:
                return cls(name, mmap.mmap(descriptor, os.fstat(descriptor).st_size))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LaneLost(f"no lane {name} here ({error.strerror})") from error

    def unlink(self) -> None:
        """Take the name away, once both ends are open: nothing is left of it when they end, however they do."""
        (FOLDER / self.name).unlink(missing_ok=True)

    def put(self, region: int, *parts: Mapping[str, npt.NDArray]) -> tuple[Laid, ...]:
        """Write arrays, keys or rows, to a region; what ``get`` is told."""
        laid, at = [], region * self.capacity
        for arrays in parts:
            lengths = []
            for name, array in arrays.items():
                flat = array.reshape(-1).view(np.uint8)
                self._memory[at : at + len(flat)] = flat
                at += len(flat)
                lengths.append((name, len(array), array.shape[1] if array.ndim == 2 else 0))
            at = -(-at // _ALIGNED) * _ALIGNED
            laid.append(Laid(tuple(lengths)))
        return tuple(laid)

    def room(self, region: int, lengths: Mapping[str, int], widths: Mapping[str, int]) -> tuple[Laid, dict[str, Any]]:
        """Rows of several groups to be written to a region in place; and what ``get`` is told of them."""
        laid = Laid(tuple((name, length, widths[name]) for name, length in lengths.items()))
        return laid, self.get(region, laid)[0]

    def get(self, region: int, *laid: Laid) -> list[dict[str, Any]]:
        """What lies in a region, in place."""
        parts, at = [], region * self.capacity
        for part in laid:
            arrays: dict[str, Any] = {}
            for name, length, width in part.lengths:
                size = length * (4 * width or 8)
                flat = self._memory[at : at + size]
                arrays[name] = flat.view(np.float32).reshape(length, width) if width else flat.view(np.int64)
                at += size
            at = -(-at // _ALIGNED) * _ALIGNED
            parts.append(arrays)
        return parts


def bytes_for(num_keys: int, parts: Sequence[Mapping[str, npt.NDArray]], widths: Mapping[str, int]) -> int:
    """Bytes that arrays take, and so the rows and positions that may be answered to such keys."""
    asked = sum(array.nbytes for arrays in parts for array in arrays.values())
    answered = max((4 * width for width in widths.values()), default=0) * num_keys + 8 * num_keys
    return max(asked, answered) + 4 * _ALIGNED
