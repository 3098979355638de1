"""A source over lists, with control items that make it stop, stall or crash where a test wants it to.

The idea is bytewax's ``TestingSource``: a crash and its resumption are tested without a broker.
"""

import enum
from collections.abc import Collection, Mapping, MutableSequence

from recsys.events import Event
from recsys.streams.source import Partition, Position, Record, Source, check_position


class Control(enum.Enum):
    """Items of a list that are not data: they have no offset."""

    EOF = "nothing more for now: one call delivers nothing and the partition is caught up, then it goes on"
    PAUSE = "one call delivers nothing, though there is more"
    ABORT = "raises Aborted, once"
    SPENT = "an ABORT that has fired"


EOF, PAUSE, ABORT = Control.EOF, Control.PAUSE, Control.ABORT
Item = bytes | Event | Control


class Aborted(Exception):
    """The simulated crash: throw the source away, make a new one over the same lists, ``seek`` and go on."""


class MemorySource(Source):
    """Delivers the items of lists, in offset order; a list that grows delivers what was appended.

    Offsets count data items only. Put ``events.END`` last in each list for a bounded source. An ABORT that
    fires is marked in the list itself, so that the next source over the same lists goes past it.

    >>> lists = {Partition("t", 0): [b"a", ABORT, b"b"]}
    >>> source = MemorySource(lists)
    >>> source.next_batch()
    [Record(partition=Partition(topic='t', index=0), offset=0, payload=b'a', row=None)]
    >>> position = source.position()
    >>> source.next_batch()
    Traceback (most recent call last):
    recsys.streams.memory.Aborted: t-0 at offset 1
    >>> resumed = MemorySource(lists)
    >>> resumed.seek(position)
    >>> resumed.next_batch()
    [Record(partition=Partition(topic='t', index=0), offset=1, payload=b'b', row=None)]
    """

    def __init__(self, items: Mapping[Partition, MutableSequence[Item]]) -> None:
        self.partitions = tuple(items)
        self._items = dict(items)
        self._index = dict.fromkeys(self.partitions, 0)  # into the list, control items included
        self._offset: Position = dict.fromkeys(self.partitions, 0)
        self._at_eof: set[Partition] = set()  # their EOF has had its silent call
        self._turn = 0

    def next_batch(
        self, max_records: int = 1000, timeout_seconds: float = 0.1, only: Collection[Partition] | None = None
    ) -> list[Record]:
        """As promised by Source; never waits. Partitions take turns at being first."""
        records: list[Record] = []
        first, self._turn = self._turn, (self._turn + 1) % max(1, len(self.partitions))
        for partition in self.partitions[first:] + self.partitions[:first]:
            if only is None or partition in only:
                self._deliver(partition, max_records, records)
        return records

    def _deliver(self, partition: Partition, max_records: int, records: list[Record]) -> None:
        before = len(records)
        while len(records) < max_records and self._index[partition] < len(self._items[partition]):
            item = self._items[partition][self._index[partition]]
            if not isinstance(item, Control):
                records.append(Record(partition, self._offset[partition], item))
                self._offset[partition] += 1
            elif item is not Control.SPENT and len(records) > before:
                return  # what came before a control item is delivered first, by itself
            elif item is EOF and partition not in self._at_eof:
                self._at_eof.add(partition)  # caught up until the next call steps over it
                return
            elif item is ABORT and records:
                return  # records of other partitions must not be lost in the crash
            elif item is ABORT:
                self._items[partition][self._index[partition]] = Control.SPENT
                message = f"{partition} at offset {self._offset[partition]}"
                raise Aborted(message)
            self._at_eof.discard(partition)
            self._index[partition] += 1
            if item is PAUSE:
                return

    def position(self) -> Position:
        return dict(self._offset)

    def seek(self, position: Mapping[Partition, int]) -> None:
        end = {partition: self._num_data(partition) for partition in self.partitions}
        check_position(position, dict.fromkeys(self.partitions, 0), end)
        for partition, offset in position.items():
            self._index[partition] = self._index_of(partition, offset)
            self._offset[partition] = offset
            self._at_eof.discard(partition)

    def _num_data(self, partition: Partition) -> int:
        return sum(not isinstance(item, Control) for item in self._items[partition])

    def _index_of(self, partition: Partition, offset: int) -> int:
        """The index just behind the data item before ``offset``: control items there come again."""
        seen = 0
        for index, item in enumerate(self._items[partition]):
            if seen == offset:
                return index
            seen += not isinstance(item, Control)
        return len(self._items[partition])

    def caught_up(self, partition: Partition) -> bool:
        items, index = self._items[partition], self._index[partition]
        while index < len(items) and isinstance(items[index], Control) and items[index] is not EOF:
            index += 1
        return index == len(items) or items[index] is EOF

    def lag(self) -> dict[Partition, int]:
        return {partition: self._num_data(partition) - self._offset[partition] for partition in self.partitions}

    def close(self) -> None:
        """Nothing is held."""
