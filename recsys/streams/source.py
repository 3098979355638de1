"""What every source of events promises: ordered within a partition, resumable from a position."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from recsys.errors import DataError
from recsys.events import END_PAYLOAD, EndMarker, Event


class Partition(NamedTuple):
    """One ordered part of a topic.

    >>> str(Partition("impressions", 3))
    'impressions-3'
    """

    topic: str
    index: int  # type: ignore[assignment]  # a field, in place of tuple's method

    def __str__(self) -> str:
        return f"{self.topic}-{self.index}"


Headers = Sequence[tuple[str, bytes]]  # what goes with a message beside its payload; Kafka alone keeps it


class Record(NamedTuple):
    """One delivered message; ``payload`` is bytes from Kafka (decode by topic), an event from files and
    memory. ``row`` numbers an event of a message that holds many."""

    partition: Partition
    offset: int
    payload: bytes | Event
    row: int | None = None


Position = dict[Partition, int]  # the NEXT offset to be delivered, per partition


def is_end(payload: bytes | Event) -> bool:
    """Whether a payload closes its partition.

    >>> is_end(b'{"end":true}'), is_end(b"{}")
    (True, False)
    """
    return isinstance(payload, EndMarker) or payload == END_PAYLOAD


class Source(ABC):
    """Ordered, resumable partitions of records.

    A bounded source delivers the end marker as the last record of each partition (it has an offset too);
    after that nothing. A position is a promise: a source of the same data that seeks to it delivers exactly
    what this one would have delivered next.
    """

    partitions: tuple[Partition, ...]

    @abstractmethod
    def next_batch(
        self, max_records: int = 1000, timeout_seconds: float = 0.1, only: Collection[Partition] | None = None
    ) -> list[Record]:
        """Up to ``max_records`` records, in offset order within each partition; [] when nothing came in time.

        ``only`` restricts delivery to these partitions: the rest is held back (back-pressure), never lost.
        """

    @abstractmethod
    def position(self) -> Position:
        """The next offset of every partition, after the last record delivered by ``next_batch``."""

    @abstractmethod
    def seek(self, position: Mapping[Partition, int]) -> None:
        """Go on from ``position``; partitions it does not name stay where they are.

        Raises DataError for an offset that is negative or beyond the end, and for an unknown partition;
        nothing has moved then.
        """

    @abstractmethod
    def caught_up(self, partition: Partition) -> bool:
        """Whether everything that is there now has been delivered: a silent partition that is caught up is
        idle."""

    @abstractmethod
    def lag(self) -> dict[Partition, int]:
        """Records that are there and not delivered, per partition (in Kafka a difference of offsets: an
        upper bound)."""

    def away_seconds(self) -> float:
        """For how long whoever has the records has not answered; 0 where it did. Files are always there."""
        return 0.0

    def unread_since_ms(self) -> dict[Partition, int]:
        """When the oldest record not delivered was written (ms since 1970), of partitions with a lag where that is
        known: files and lists do not say."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_position(
    position: Mapping[Partition, int],
    first: Mapping[Partition, int],
    end: Mapping[Partition, int],
) -> None:
    """Raise DataError unless every offset of ``position`` lies in ``[first, end]`` of its partition."""
    for partition, offset in position.items():
        if partition not in end:
            known = ", ".join(str(known) for known in end)
            message = f"can not seek in {partition}: this source reads {known}"
            raise DataError(message)
        if not first[partition] <= offset <= end[partition]:
            message = (
                f"can not seek to offset {offset} of {partition}, which holds {first[partition]} to"
                f" {end[partition]}; is this the data that the position was taken from?"
            )
            raise DataError(message)
