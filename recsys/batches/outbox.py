"""From the joiner's disk to the topic of examples: every message once, whatever dies on the way.

A commit puts messages into the outbox under consecutive numbers; then they are produced, each with its number in its
headers; the next commit forgets them. Who goes on reads the last number out of the topic and sends the rest. A state
that was restored from an older checkpoint makes examples that the topic has already: their numbers tell, and they are
left out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from recsys.batches.disk_state import JoinerDisk, Message
from recsys.batches.examples import ExampleRows, encode_rows
from recsys.errors import DataError
from recsys.events import END_PAYLOAD, EXAMPLES, EndMarker
from recsys.streams.sink import Headers, Sink
from recsys.streams.source import Partition


class Number(NamedTuple):
    """Which message of its partition one is: of which joiner state (``origin``), the how many-th, the number of the
    example that comes after it, and whether it is the end."""

    origin: str
    sequence: int
    next: int
    is_end: int = 0

    def headers(self) -> Headers:
        """As headers of the message.

        >>> Number.of(Number("a1", 7, 300).headers())
        Number(origin='a1', sequence=7, next=300, is_end=0)
        """
        return [(name, str(value).encode()) for name, value in self._asdict().items()]

    @classmethod
    def of(cls, headers: Headers) -> Self | None:
        """The number that a message's headers say; None where they say none."""
        found = dict(headers)
        if not found.keys() >= set(cls._fields):
            return None
        try:
            return cls(found["origin"].decode(), *(int(found[name]) for name in cls._fields[1:]))
        except ValueError as error:
            raise DataError(
                f"a message of examples has headers {found}, which are no numbers; use a topic of its own"
            ) from error


_NOTHING = Number("", 0, 0)


class Outbox:
    """The outbox of one joiner. ``last`` is what its partitions' last messages in the topic say."""

    def __init__(self, disk: JoinerDisk, last: Mapping[int, Number | None]) -> None:
        self._disk = disk
        self._held: dict[int, Number] = {}
        for index, part in disk.partitions.items():
            number = last.get(index)
            if number is not None and number.origin == part.origin:
                part.sent(number.sequence)
                part.number_from(number.sequence)
                self._held[index] = number

    def messages(self, parts: Sequence[tuple[int, ExampleRows | EndMarker]]) -> dict[int, list[Message]]:
        """What a poll returned, as messages to be committed."""
        made: dict[int, list[Message]] = {index: [] for index, _ in parts}
        for index, part in parts:
            held = self._held.get(index, _NOTHING)
            if held.is_end:
                continue
            if isinstance(part, EndMarker):
                before = made[index][-1][0] if made[index] else self._disk.partitions[index].next_example
                made[index].append((max(before, held.next), END_PAYLOAD))
            elif part.first >= held.next:
                made[index].append((part.first + part.rows.num_rows, encode_rows(part)))
            elif part.first + part.rows.num_rows > held.next:
                made[index].append((part.first + part.rows.num_rows, encode_rows(_from(part, held.next))))
        return made

    def unsent(self) -> list[tuple[int, int, Message]]:
        """(partition, sequence, message) of all that the topic may lack."""
        return [(index, *found) for index, part in self._disk.partitions.items() for found in part.unsent()]

    def produce(self, sink: Sink, messages: Sequence[tuple[int, int, Message]]) -> None:
        """Hand these to a sink; they are stored when this returns."""
        for index, sequence, (next_example, payload) in messages:
            is_end = int(payload == END_PAYLOAD)
            number = Number(self._disk.partitions[index].origin, sequence, next_example, is_end)
            sink.send(Partition(EXAMPLES, index), payload, headers=number.headers())
        sink.flush()

    def sent(self, messages: Sequence[tuple[int, int, Message]]) -> None:
        """The topic has them."""
        for index, sequence in {index: sequence for index, sequence, _ in messages}.items():
            self._disk.partitions[index].sent(sequence)


def _from(part: ExampleRows, number: int) -> ExampleRows:
    """The examples from a number on."""
    return ExampleRows(part.rows[number - part.first :], part.watermark_ms, number)
