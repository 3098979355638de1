"""One RocksDB of raw bytes, and what the databases of a process may take of its memory.

Nothing is written but by ``write``: one batch, all of it or nothing, in the write-ahead log when the call returns.
That log outlives the process; a power cut may take the latest batches, unless ``sync`` waits for the disk (some 3 ms).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from recsys.batches.recent import Lately
from recsys.errors import DataError, ServiceError

_MIN_WRITE_BUFFER = 2**20
_OPEN_SECONDS = 30.0


class RocksMemory:
    """What the databases of one process may take: a half for what was used lately, a quarter for blocks of files, a
    quarter for what is not in files yet."""

    def __init__(self, memory_mb: float, num_databases: int) -> None:
        self._bytes, self._num = int(memory_mb * 2**20), num_databases
        self._blocks = Cache(max(2**20, self._bytes // 4))
        self.lately = Lately(self._bytes // 2)

    def options(self) -> Options:
        """How to open one database."""
        options, table = Options(raw_mode=True), BlockBasedOptions()
        options.create_if_missing(True)
        options.set_write_buffer_size(max(_MIN_WRITE_BUFFER, self._bytes // 8 // self._num))
        options.set_max_write_buffer_number(2)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_max_background_jobs(2)
        options.set_max_open_files(64)
        options.set_keep_log_file_num(2)
        table.set_block_cache(self._blocks)
        table.set_bloom_filter(10, False)
        table.set_cache_index_and_filter_blocks(True)
        options.set_block_based_table_factory(table)
        return options


class Rocks:
    """A database in ``folder``, which one process has at a time: another waits for ``patience_seconds``.

    ServiceError where it can not be opened or written, DataError where it is damaged.
    """

    def __init__(
        self, folder: Path, memory: RocksMemory, *, sync: bool = False, patience_seconds: float = _OPEN_SECONDS
    ) -> None:
        self._folder = folder
        self.lately = memory.lately
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = self._opened(memory.options(), time.monotonic() + patience_seconds)
        write = WriteOptions()
        write.sync = sync
        self._rows.set_write_options(write)

    def _opened(self, options: Options, until: float) -> Rdict:
        while True:
            try:
                return Rdict(str(self._folder), options=options)
            except Exception as error:  # rocksdict raises nothing narrower
                held = "lock" in str(error).lower()
                if not held:
                    raise DataError(
                        f"the joiner's state in {self._folder} can not be read ({error}); remove the folder: its "
                        "partition goes on from the last checkpoint"
                    ) from error
                if time.monotonic() > until:
                    raise ServiceError(
                        f"{self._folder} is another process's ({error}); end that, or choose another run"
                    ) from error
            time.sleep(0.05)

    def get(self, key: bytes) -> bytes | None:
        """What was written last under a key."""
        try:
            found: bytes | None = self._rows.get(key)
        except Exception as error:
            raise self._damaged(error) from error
        return found

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What was written last under each of some keys."""
        try:
            found: Any = self._rows.get(list(keys))
        except Exception as error:
            raise self._damaged(error) from error
        return list(found)

    def scan(self, begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys from ``begin`` to before ``end`` with their values, in order."""
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        try:
            yield from self._rows.items(read_opt=options, from_key=begin)
        except Exception as error:
            raise self._damaged(error) from error

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Put values, and delete the keys of None: all of it, or nothing."""
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in changes.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        try:
            self._rows.write(batch)
        except Exception as error:
            raise ServiceError(
                f"the joiner's state in {self._folder} can not be written ({error}); make room, then resume the run"
            ) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"the joiner's state in {self._folder} is damaged ({error}); remove the folder: its partition goes on from "
            "the last checkpoint"
        )

    def close(self) -> None:
        """Let go of the folder."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
