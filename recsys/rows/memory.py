"""Arrays that grow in place: addresses are reserved once, and memory comes page by page as it is first written.

Growing a table by copying it stops everybody for as long as the copy takes, and holds it twice. Here nothing moves:
an array is as long as this machine could ever hold, and its untouched end costs nothing.
"""

import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import ServiceError

_MAX_BYTES = 256 * 2**30  # of one array: address space, too, has an end
_SMALL_BYTES = 4 * 2**20  # up to here in small pages: most row groups are small, and a huge page is 2 MiB
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class Reserved:
    """Zeros of shape (as many as memory could hold, width), or one-dimensional where ``width`` is None.

    >>> rows = Reserved(np.float32, width=4)
    >>> rows.array.shape[1], float(rows.array[10**6].sum()), rows.array.flags.writeable
    (4, 0.0, True)
    """

    def __init__(self, dtype: npt.DTypeLike, width: int | None = None) -> None:
        kind = np.dtype(dtype)
        row_bytes = kind.itemsize * (1 if width is None else width)
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self.length = min(physical, _MAX_BYTES) // row_bytes
        flat: npt.NDArray = np.frombuffer(
            _reserve(self.length * row_bytes), kind, self.length * row_bytes // kind.itemsize
        )
        self.array = flat if width is None else flat.reshape(self.length, width)


def _reserve(num_bytes: int) -> mmap.mmap:
    num_bytes = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    except OSError as error:
        raise ServiceError(
            f"{num_bytes / 2**30:.0f} GiB of addresses can not be reserved for rows ({error.strerror}); lift the limit "
            "on virtual memory (ulimit -v unlimited, vm.overcommit_memory=0)"
        ) from error
    if num_bytes > _SMALL_BYTES:
        # Random rows of a big table are each on a page of their own: with huge ones the CPU finds them 1.2-2 times
        # as fast. A kernel without them takes no notice.
        memory.madvise(mmap.MADV_HUGEPAGE, _SMALL_BYTES, num_bytes - _SMALL_BYTES)
    return memory


def array_by_slot(capacity: int | None, dtype: npt.DTypeLike, width: int | None = None) -> npt.NDArray[Any]:
    """Zeros for so many slots, or for as many as will ever be where ``capacity`` is None."""
    if width == 0:
        return np.zeros((2**32, 0), dtype)
    if capacity is None:
        return Reserved(dtype, width).array
    return np.zeros(capacity if width is None else (capacity, width), dtype)
