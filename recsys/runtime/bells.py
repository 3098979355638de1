"""A socket between a worker and a shard on one machine, for calls whose arrays lie in the lane that both have.

A call by Ray takes 0.8 ms of two processes' time, a message through a socket a twentieth of that; and one end is told
at once when the other dies. Like a lane it has a name only until both ends are open: nothing is left of it afterwards.

Messages are msgpack; each is one datagram of a SOCK_SEQPACKET socket, so it comes whole or not at all.
"""

import contextlib
import os
import socket
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from recsys.runtime.lanes import FOLDER, Laid, LaneLost, OtherEndGone

_MOST_BYTES = 1 << 16  # of a message: the kernel takes three times that
_KEPT = 8  # answers; a worker waits for two at most
_SECONDS = 10.0  # in which the other end comes, once it was told


class Read(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """``StepShard.pull`` or ``prefetch`` of the keys that lie in the lane, with its other arguments."""

    number: int
    method: str
    laid: tuple[Laid, ...]
    others: tuple[int, ...]


class Push(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """``StepShard.push`` of a part whose arrays lie in the lane."""

    number: int
    laid: tuple[Laid, ...]
    refresh: bool
    worker: int
    step: int
    event_time_ms: int
    weight: float
    position: Mapping[int, tuple[int, int]]


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Where in the lane the answer to a number lies; None where there is none to be given."""

    number: int
    laid: tuple[Laid, ...] | None = None
    failed: bool = False  # what was raised is kept at the other end, to be asked for


Message = Read | Push | Answer
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


class Bell:
    """One end. Each is one thread's."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._buffer = end, bytearray(_MOST_BYTES)
        self._answers: dict[int, Answer] = {}  # that have come and were not asked for yet
        self.close: Any = weakref.finalize(self, end.close)

    @classmethod
    def opened(cls, name: str) -> "Bell":
        """The end of who was told the name of a Door; LaneLost where it is on another machine."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            end.connect(str(_path(name)))
        except OSError as error:
            end.close()
            raise LaneLost(f"no bell {name} here ({error.strerror})") from error
        return cls(end)

    def send(self, message: Message) -> None:
        """Tell the other end; OtherEndGone where it is, LaneLost where the message is too long."""
        payload = _encoder.encode(message)
        if len(payload) > _MOST_BYTES:
            raise LaneLost(f"a message of {len(payload)} bytes; a bell takes {_MOST_BYTES}")
        try:
            self._end.send(payload)
        except OSError as error:
            raise OtherEndGone(f"the other end is gone ({error.strerror})") from error

    def receive(self) -> Message:
        """The next message; OtherEndGone where the other end is."""
        try:
            size = self._end.recv_into(self._buffer)
        except OSError as error:
            raise OtherEndGone(f"the other end is gone ({error.strerror})") from error
        if size == 0:
            raise OtherEndGone("the other end is gone")
        message: Message = _decoder.decode(memoryview(self._buffer)[:size])
        return message

    def hang_up(self) -> None:
        """Let both ends be told that nothing more comes."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def answer_to(self, number: int) -> Answer:
        """The answer to a number; others that come before it are kept a while for who waits for them later."""
        while number not in self._answers:
            message = self.receive()
            assert isinstance(message, Answer)
            self._answers[message.number] = message
            self._answers.pop(message.number - _KEPT, None)
        return self._answers.pop(number)


class Door:
    """Where the other end of a bell comes in, once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listening.bind(str(_path(name)))
            os.chmod(_path(name), 0o600)  # nobody comes in before it listens
            self._listening.listen(1)
        except OSError as error:
            self.close()
            raise LaneLost(f"no socket in {FOLDER} ({error.strerror})") from error

    def accept(self) -> Bell:
        """This end, once the other has come."""
        self._listening.settimeout(_SECONDS)
        try:
            end, _ = self._listening.accept()
        except OSError as error:
            raise LaneLost(f"nobody has come within {_SECONDS:g} s") from error
        end.settimeout(None)
        return Bell(end)

    def close(self) -> None:
        """Let nobody in any more, and take the name away."""
        self._listening.close()
        _path(self._name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return FOLDER / f"{Path(name).name}.bell"
