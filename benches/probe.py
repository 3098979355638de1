"""What this machine's memory delivers on random 64-byte reads: the limit of any table whose rows are one line.

Lines are read in random order, each asked for a while before it is needed, as the best gather would.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LINE_BYTES = 64
_WORDS_A_LINE = LINE_BYTES // 8
_AHEADS = (16, 32, 64)  # how many lines are on their way; the best of these counts
_FOR_READING, _IN_ALL_CACHES, _DATA = 0, 3, 1
_INT32 = ir.IntType(32)


@intrinsic
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of ``array[index]``, one-dimensional (llvm.prefetch, LLVM Language Reference)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, _INT32(_FOR_READING), _INT32(_IN_ALL_CACHES), _INT32(_DATA)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@njit(cache=True, nogil=True)
def _read(words: npt.NDArray[np.int64], lines: npt.NDArray[np.int64], ahead: int) -> int:
    """Read one word of each line; returns the sum, so that no read can be left out."""
    total = 0
    for i in range(len(lines)):
        if i + ahead < len(lines):
            _prefetch(words, lines[i + ahead] * _WORDS_A_LINE)  # type: ignore[call-arg]
        total += words[lines[i] * _WORDS_A_LINE]
    return total


class MemoryProbe:
    """Random line reads in ``num_bytes`` of memory by ``threads`` threads.

    >>> MemoryProbe(num_bytes=2**20, num_reads=1000, threads=2).bytes_per_second() > 0
    True
    """

    def __init__(self, num_bytes: int, num_reads: int, threads: int, seed: int = 0) -> None:
        self._words = aligned_int64s(num_bytes)
        self._words[:] = 1
        random = np.random.default_rng(seed)
        lines = random.integers(0, num_bytes // LINE_BYTES, (threads, max(1, num_reads // threads)))
        self._lines = list(lines)
        self._pool = ThreadPoolExecutor(threads)
        _read(self._words, self._lines[0][:1], 1)

    def bytes_per_second(self) -> float:
        """The rate of one pass over the reads, the best of a few distances between asking and reading."""
        return max(self._pass(ahead) for ahead in _AHEADS)

    def _pass(self, ahead: int) -> float:
        start = time.perf_counter()
        running = [self._pool.submit(_read, self._words, lines, ahead) for lines in self._lines]
        read = sum(part.result() for part in running)
        seconds = time.perf_counter() - start
        assert read == sum(map(len, self._lines))
        return read * LINE_BYTES / seconds


def aligned_int64s(num_bytes: int) -> npt.NDArray[np.int64]:
    """Memory that starts at a cache line, on huge pages where the system grants them."""
    import mmap

    memory = mmap.mmap(-1, max(num_bytes, mmap.PAGESIZE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.int64, num_bytes // 8)
