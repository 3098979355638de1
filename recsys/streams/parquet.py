"""Events from Parquet files, in the order of their times, a row group at a time.

Shape suffix: N rows of a row group, M rows merged for one batch.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError
from recsys.events import END, Event
from recsys.streams.parquet_file import EventFile
from recsys.streams.source import Partition, Position, Record, Source, check_position

Ints = npt.NDArray[np.int64]


class _Lane:
    """A cursor over the rows of one file that belong to one partition."""

    def __init__(self, file: EventFile, partition: Partition) -> None:
        self.file = file
        self.partition = partition
        self.rewind()

    def rewind(self) -> None:
        self._group = -1
        self._rows_N, self._times_N = np.empty(0, np.int64), np.empty(0, np.int64)
        self._next = 0
        self._enter_group_with_rows()

    def _enter_group_with_rows(self) -> None:
        while self._next == len(self._rows_N) and self._group + 1 < self.file.num_groups:
            self._group += 1
            self._rows_N, self._times_N = self.file.rows_of(self._group, self.partition.index)
            self._next = 0

    @property
    def exhausted(self) -> bool:
        return self._next == len(self._rows_N)

    def times(self, num_rows: int) -> tuple[Ints, bool]:
        """The times of the next rows, ``num_rows`` at most, and whether more may follow these."""
        times_M = self._times_N[self._next : self._next + num_rows]
        seen_all = self._next + len(times_M) == len(self._times_N) and self._group + 1 >= self.file.num_groups
        return times_M, not seen_all

    def take(self, num_rows: int) -> list[Event]:
        rows_M = self._rows_N[self._next : self._next + num_rows]
        events = self.file.events(self._group, rows_M)
        self.skip(num_rows)
        return events

    def skip(self, num_rows: int) -> None:
        self._next += num_rows
        self._enter_group_with_rows()


class ParquetSource(Source):
    """Plays files as topics: ``paths[topic]`` are typed Parquet files, each sorted by ``time_ms``.

    Columns: impressions ``request_id, user_id, item_id, time_ms``; actions ``request_id, user_id, kind,
    time_ms``; facts ``user_id`` or ``item_id``, ``time_ms``, and every other column is a fact (nulls are
    left out). Ids are int64 or strings. An event is in partition ``partition_of(its user, or the id of its
    facts, num_partitions)`` of its topic. Batches come in order of time over all topics and partitions that
    are not held back, ties by the order of ``paths``; each partition ends with the end marker. One row group
    per file is in memory (two at the seams); ``seek`` and ``lag`` read the files again. Only ``partitions``
    are delivered, all where it is None. Raises DataError naming file and column, or file and row.
    """

    def __init__(
        self,
        paths: Mapping[str, Sequence[Path]],
        num_partitions: int,
        *,
        partitions: Sequence[Partition] | None = None,
    ) -> None:
        every = tuple(Partition(topic, index) for topic in paths for index in range(num_partitions))
        self.partitions = every if partitions is None else tuple(partitions)
        for partition in self.partitions:
            if partition not in every:
                message = f"there is no {partition}; {', '.join(paths)} have {num_partitions} partitions each"
                raise ConfigError(message)
        self._files = {
            topic: [EventFile(Path(path), topic, num_partitions) for path in files] for topic, files in paths.items()
        }
        # In the order of files first: the same for every set of partitions held back, so that offsets are
        # stable.
        self._lanes = [
            _Lane(file, partition)
            for topic, files in self._files.items()
            for file in files
            for partition in self.partitions
            if partition.topic == topic
        ]
        self._offset: Position = dict.fromkeys(self.partitions, 0)
        self._ended: set[Partition] = set()
        self._num_events: Position = {}  # counted when first asked for

    def next_batch(
        self, max_records: int = 1000, timeout_seconds: float = 0.1, only: Collection[Partition] | None = None
    ) -> list[Record]:
        """As promised by Source; files never make it wait."""
        wanted = set(self.partitions) if only is None else set(only)
        lanes = [lane for lane in self._lanes if lane.partition in wanted]
        lane_of_M = self._merge(lanes, max_records)
        records = self._deliver(lanes, lane_of_M)
        return records + self._end_markers(wanted, max_records - len(records))

    def _merge(self, lanes: list[_Lane], num_rows: int) -> Ints:
        """Which lane each of the next rows comes from, in order of (time, file, row): the same however it is
        cut."""
        seen = [lane.times(num_rows) for lane in lanes]
        if not seen:
            return np.empty(0, np.int64)
        lane_of_M = np.repeat(np.arange(len(lanes)), [len(times) for times, _ in seen])
        order_M = np.argsort(np.concatenate([times for times, _ in seen]), kind="stable")
        rank_M = np.empty_like(order_M)
        rank_M[order_M] = np.arange(len(order_M))
        # Behind the last row seen of a lane that has more, its next row may belong before another lane's.
        last_of_lane = np.cumsum([len(times) for times, _ in seen]) - 1
        cuts = [rank_M[last] + 1 for last, (_, more) in zip(last_of_lane, seen, strict=True) if more]
        return lane_of_M[order_M][: min([num_rows, *cuts])]

    def _deliver(self, lanes: list[_Lane], lane_of_M: Ints) -> list[Record]:
        counts = np.bincount(lane_of_M, minlength=len(lanes)).tolist()
        events = [iter(lane.take(count)) if count else iter(()) for lane, count in zip(lanes, counts, strict=True)]
        records: list[Record] = []
        for index in lane_of_M.tolist():
            partition = lanes[index].partition
            records.append(Record(partition, self._offset[partition], next(events[index])))
            self._offset[partition] += 1
        return records

    def _end_markers(self, wanted: set[Partition], room: int) -> list[Record]:
        unfinished = {lane.partition for lane in self._lanes if not lane.exhausted}
        records: list[Record] = []
        for partition in self.partitions:
            if len(records) < room and partition in wanted - unfinished - self._ended:
                records.append(Record(partition, self._offset[partition], END))
                self._offset[partition] += 1
                self._ended.add(partition)
        return records

    def position(self) -> Position:
        return dict(self._offset)

    def seek(self, position: Mapping[Partition, int]) -> None:
        ends = {partition: count + 1 for partition, count in self._counts().items()}  # the end marker is a record
        check_position(position, dict.fromkeys(self.partitions, 0), ends)
        for lane in self._lanes:
            if lane.partition in position:
                lane.rewind()
        self._skip({partition: min(offset, self._counts()[partition]) for partition, offset in position.items()})
        self._offset.update(position)
        self._ended = {partition for partition in self.partitions if self._offset[partition] == ends[partition]}

    def _skip(self, num_rows: Position) -> None:
        """Pass over the first rows of these partitions, merged as they would be delivered."""
        remaining = dict(num_rows)
        while any(remaining.values()):
            # All partitions together, so that each row group is read once.
            lanes = [lane for lane in self._lanes if remaining.get(lane.partition)]
            lane_of_M = self._merge(lanes, 65_536)
            self._skip_rows(lanes, lane_of_M, remaining)

    def _skip_rows(self, lanes: list[_Lane], lane_of_M: Ints, remaining: Position) -> None:
        partitions = list(remaining)
        partition_of_lane = np.array([partitions.index(lane.partition) for lane in lanes])
        for index, partition in enumerate(partitions):
            mine_M = lane_of_M[partition_of_lane[lane_of_M] == index][: remaining[partition]]
            for lane, count in zip(*np.unique(mine_M, return_counts=True), strict=True):
                lanes[lane].skip(int(count))
            remaining[partition] -= len(mine_M)

    def _counts(self) -> Position:
        if not self._num_events:
            for partition in self.partitions:
                self._num_events[partition] = sum(
                    int(file.num_rows_of_partitions()[partition.index]) for file in self._files[partition.topic]
                )
        return self._num_events

    def caught_up(self, partition: Partition) -> bool:
        return partition in self._ended

    def lag(self) -> dict[Partition, int]:
        return {partition: count + 1 - self._offset[partition] for partition, count in self._counts().items()}

    def close(self) -> None:
        for files in self._files.values():
            for file in files:
                file.close()
