"""What the joiner of one partition remembers, on disk; and the facts, which all partitions of a joiner share.

::

    <folder>/partition-0003/    r request id        pending, early or emitted
                                u user id           history
                                d bucket, commit    deadlines: those of one second that one commit added
                                f commit            what was emitted and is to be forgotten, as one commit added it
                                e commit            the same of what came early
                                o sequence          messages that their topic may lack
                                m                   positions of the inputs and all other numbers
    <folder>/facts-0/           p user id, i item id, m

A ``commit`` is one write batch: state, input positions and outbox belong to one instant whatever dies.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recsys.batches.disk_queues import (
    Changes,
    DiskDeadlines,
    DiskEntries,
    DiskForgets,
    after,
    decode,
    encode,
    number_bytes,
)
from recsys.batches.join_state import JoinState, Pending, Request
from recsys.batches.rocks import Rocks, RocksMemory
from recsys.errors import DataError
from recsys.events import Action
from recsys.features.state import FactTable, FeatureState, History, Id, Versions
from recsys.hashing import id_of_text, id_text

FORMAT = 2
_decode_pending = msgspec.msgpack.Decoder(Pending).decode
_decode_emitted = msgspec.msgpack.Decoder(int).decode
_REQUESTS, _HISTORIES, _DEADLINES, _FORGETS, _EARLY_FORGETS = b"r", b"u", b"d", b"f", b"e"
_OUTBOX, _ABOUT = b"o", b"m"
_PROFILES, _ITEMS = b"p", b"i"
Message = tuple[int, bytes]  # the number of the example that comes after it, and its payload


class PartitionDisk:
    """All that a joiner keeps of one partition. ``about`` is what the last commit said, None where there was none.

    Messages committed wait in the outbox, under consecutive numbers, until ``sent``. ``origin`` names this state for as
    long as it goes on, wherever: its numbers are its own.
    """

    def __init__(self, folder: Path, memory: RocksMemory, *, origin: str, sync: bool = False) -> None:
        self._rocks = Rocks(folder, memory, sync=sync)
        self.about = _read_about(self._rocks, folder)
        self._own: dict[str, Any] = (
            self.about["own"] if self.about else {"origin": origin, "commits": 0, "sequence": 0, "taken": [0, 0]}
        )
        self._said = encode(self.about)
        self._requests: DiskEntries[str, Request] = DiskEntries(
            self._rocks,
            _REQUESTS,
            key_text=(str, str),
            coded=(_request_bytes, _request_of),
        )
        self.histories: DiskEntries[Id, History] = DiskEntries(
            self._rocks, _HISTORIES, key_text=(id_text, id_of_text), coded=_HISTORY
        )
        self._deadlines = DiskDeadlines(self._rocks, _DEADLINES, self._requests.fetch)
        taken, early_taken = self._own["taken"]
        self._forgets = DiskForgets(self._rocks, _FORGETS, taken)
        self._early_forgets = DiskForgets(self._rocks, _EARLY_FORGETS, early_taken)
        self.kept = JoinState(self._requests, self._deadlines, self._forgets, self._early_forgets)
        outbox = self._rocks.scan(_OUTBOX, after(_OUTBOX))
        self._outbox: dict[int, Message] = {int.from_bytes(key[1:], "big"): tuple(decode(data)) for key, data in outbox}
        self._fresh: dict[int, Message] = {}  # of these, what is not on the disk yet
        self._sent: list[int] = []

    @property
    def sequence(self) -> int:
        """The number of the last message; the first is 1."""
        return int(self._own["sequence"])

    @property
    def origin(self) -> str:
        """What this state is called."""
        return str(self._own["origin"])

    @property
    def next_example(self) -> int:
        """The number of the example that comes after the last message."""
        return int(self._own.get("next", 0))

    def outbox(self) -> dict[str, Any]:
        """Numbers, and messages that may not be sent, as plain values."""
        unsent = [[at, first, base64.b64encode(payload).decode()] for at, (first, payload) in self._outbox.items()]
        return {"origin": self.origin, "sequence": self.sequence, "next": self.next_example, "unsent": unsent}

    def restore_outbox(self, outbox: Mapping[str, Any]) -> None:
        """Go on with the messages of the state that was restored here."""
        self._own.update({name: outbox[name] for name in ("origin", "sequence", "next")})
        self._fresh = {at: (first, base64.b64decode(payload)) for at, first, payload in outbox["unsent"]}
        self._outbox.update(self._fresh)

    def number_from(self, sequence: int) -> None:
        """The topic holds messages up to this number: of this state, in a life that it was not restored from."""
        self._own["sequence"] = max(self.sequence, sequence)

    def unsent(self) -> list[tuple[int, Message]]:
        """Messages that their topic may lack, by number."""
        return list(self._outbox.items())

    def sent(self, up_to: int) -> None:
        """The topic has the messages up to a number; the next commit forgets them."""
        gone = [sequence for sequence in self._outbox if sequence <= up_to]
        self._sent += gone
        for sequence in gone:
            del self._outbox[sequence]
            self._fresh.pop(sequence, None)

    def commit(self, about: Mapping[str, Any], messages: Sequence[Message] = ()) -> None:
        """Write all that changed, in one batch, and put messages into the outbox."""
        changes: Changes = {}
        self._requests.write(changes)
        self.histories.write(changes)
        self._deadlines.write(changes, self._own["commits"])
        self._forgets.write(changes, self._own["commits"])
        self._early_forgets.write(changes, self._own["commits"])
        changes.update((_OUTBOX + number_bytes(sequence), None) for sequence in self._sent)
        for message in messages:
            self._own.update(sequence=self.sequence + 1, next=message[0])
            self._outbox[self.sequence] = self._fresh[self.sequence] = message
        changes.update((_OUTBOX + number_bytes(sequence), encode(new)) for sequence, new in self._fresh.items())
        self._sent, self._fresh = [], {}
        if changes or self._has_news(about):
            self._write(about, changes)

    def _has_news(self, about: Mapping[str, Any]) -> bool:
        return self._said != encode({**about, "own": self._own, "format": FORMAT})

    def _write(self, about: Mapping[str, Any], changes: Changes) -> None:
        self._own["commits"] += 1
        self._own["taken"] = [self._forgets.taken, self._early_forgets.taken]
        self._said = changes[_ABOUT] = encode({**about, "own": self._own, "format": FORMAT})
        self._rocks.write(changes)
        self._deadlines.settle()
        self._forgets.settle()
        self._early_forgets.settle()

    def close(self) -> None:
        """Let go of the folder."""
        self._rocks.close()


class FactsDisk:
    """The facts that a joiner knows, and where it stands in their topic (``about``)."""

    def __init__(self, folder: Path, memory: RocksMemory, *, sync: bool = False) -> None:
        self._rocks = Rocks(folder, memory, sync=sync)
        self.about = _read_about(self._rocks, folder)
        self.profiles = self._entries(_PROFILES)
        self.items = self._entries(_ITEMS)

    def _entries(self, prefix: bytes) -> DiskEntries[Id, Versions]:
        return DiskEntries(self._rocks, prefix, key_text=(id_text, id_of_text), coded=_VERSIONS, object_factor=8)

    def commit(self, about: Mapping[str, Any]) -> None:
        """Write all that changed, in one batch."""
        changes: Changes = {}
        self.profiles.write(changes)
        self.items.write(changes)
        about = {**about, "format": FORMAT}
        if changes or about != self.about:
            self.about = about
            self._rocks.write({**changes, _ABOUT: encode(about)})

    def close(self) -> None:
        """Let go of the folder."""
        self._rocks.close()


class Together:
    """The histories of several partitions, to be read as one mapping: a user's are in one of them."""

    def __init__(self, parts: Sequence[DiskEntries[Id, History]]) -> None:
        self._parts = parts

    def get(self, key: Id) -> History | None:
        """A user's history, or None."""
        return next((found for part in self._parts if (found := part.get(key)) is not None), None)

    def fetch(self, keys: Iterable[Id]) -> None:
        """Each is looked up by itself."""

    def __setitem__(self, key: Id, value: History) -> None:
        raise AssertionError("histories are changed by the joiner of their partition")

    def items(self) -> Iterator[tuple[Id, History]]:
        """Every (user, history)."""
        return (item for part in self._parts for item in part.items())

    def __len__(self) -> int:
        return sum(map(len, self._parts))


class JoinerDisk:
    """The disk of one joiner: its partitions, each of which another joiner may take over, and its facts."""

    def __init__(
        self,
        folder: Path,
        partitions: Sequence[int],
        *,
        origin: str,
        memory_mb: float,
        sync: bool = False,
    ) -> None:
        memory = RocksMemory(memory_mb, len(partitions) + 1)
        self.lately = memory.lately
        self.partitions = {
            index: PartitionDisk(folder / f"partition-{index:04d}", memory, origin=origin, sync=sync)
            for index in partitions
        }
        self.facts = FactsDisk(folder / f"facts-{min(partitions):04d}", memory, sync=sync)

    def features(self, keep_items: int) -> FeatureState:
        """What is known of the users of all partitions, to be read; a partition's joiner changes its own part."""
        histories = Together([part.histories for part in self.partitions.values()])
        profiles, items = FactTable(self.facts.profiles), FactTable(self.facts.items)
        return FeatureState(keep_items, histories, profiles, items)

    def close(self) -> None:
        """Let go of the folders."""
        for part in self.partitions.values():
            part.close()
        self.facts.close()


def _read_about(rocks: Rocks, folder: Path) -> dict[str, Any] | None:
    data = rocks.get(_ABOUT)
    if data is None:
        return None
    about: dict[str, Any] = decode(data)
    if about["format"] != FORMAT:
        raise DataError(
            f"the joiner's state in {folder} is of format {about['format']}, this reads {FORMAT}; go on with the "
            "version that wrote it, or remove the folder: its partition goes on from the last checkpoint"
        )
    return about


class _EarlyActions(msgspec.Struct):
    """Actions on a request id that is not known, in a form of their own."""

    early: list[Action]


_decode_early = msgspec.msgpack.Decoder(_EarlyActions).decode


def _request_bytes(request: Request) -> bytes:
    return encode(_EarlyActions(request) if isinstance(request, list) else request)


def _request_of(data: bytes) -> Request:
    kind = data[0] & 0xF0  # of msgpack: a short array, a short map, or a number
    if kind == 0x90:
        return _decode_pending(data)
    return _decode_early(data).early if kind == 0x80 else _decode_emitted(data)


def _versions_of(data: bytes) -> Versions:
    return [(time_ms, facts) for time_ms, facts in decode(data)]


_HISTORY = (encode, msgspec.msgpack.Decoder(History).decode)
_VERSIONS = (encode, _versions_of)
