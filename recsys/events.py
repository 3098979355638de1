"""What travels on the topics: impressions, actions, facts, and the marker that closes a finite replay.

An impression says that an item was shown to a user; an action, that the user did something about it (``kind``:
"like", "click", …), found by ``request_id``. Facts say what is known of a user or an item from ``time_ms`` on.
All times are event times in milliseconds since 1970 (UTC). Ids are any int64, or strings.

On the wire each event is one JSON object, its type given by the topic:

>>> encode(Impression(request_id="r1", user_id=7, item_id="tt0114709", time_ms=0))
b'{"request_id":"r1","user_id":7,"item_id":"tt0114709","time_ms":0}'
>>> decode("actions", b'{"request_id":"r1","user_id":7,"kind":"like","time_ms":2000,"color":"ignored"}')
Action(request_id='r1', user_id=7, kind='like', time_ms=2000)

or many are one Arrow message (``streams.event_batches``). A message may say the version of its topic's schema:
``"schema_version"``, a field of the JSON object or an entry of the Arrow schema's metadata, 1 where it is absent.
"""

import typing
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec

from recsys.errors import EventError

Text = Annotated[str, msgspec.Meta(min_length=1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Id = Int64 | Text
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Owner = Literal["user", "item"]
Fact = Int64 | float | str | list[Int64 | str]
FactsOf = dict[str, Fact]

IMPRESSIONS, ACTIONS, FACTS, EXAMPLES = "impressions", "actions", "facts", "examples"


class Impression(msgspec.Struct, frozen=True, gc=False):
    """An item shown to a user."""

    request_id: Text
    user_id: Id
    item_id: Id
    time_ms: TimeMs


class Action(msgspec.Struct, frozen=True, gc=False):
    """What a user did about an impression, found by its request id."""

    request_id: Text
    user_id: Id
    kind: Text
    time_ms: TimeMs


class Facts(msgspec.Struct, frozen=True):
    """What is known of one user (``of="user"``) or item (``of="item"``) from ``time_ms`` on."""

    of: Owner
    id: Id
    time_ms: TimeMs
    facts: FactsOf


class EndMarker(msgspec.Struct, frozen=True):
    """Nothing comes after this in its partition: a finite replay is over."""


Event = Impression | Action | Facts | EndMarker

END = EndMarker()
END_PAYLOAD = b'{"end":true}'


@dataclass(frozen=True)
class Schema:
    """What the messages of a topic hold: the newest version that is understood here, and the event of that version."""

    version: int
    event: type[Impression] | type[Action] | type[Facts]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The type of each field, by name.

        >>> list(SCHEMAS["actions"].fields)
        ['request_id', 'user_id', 'kind', 'time_ms']
        """
        return typing.get_type_hints(self.event, include_extras=True)


SCHEMAS = {IMPRESSIONS: Schema(1, Impression), ACTIONS: Schema(1, Action), FACTS: Schema(1, Facts)}
VERSION = "schema_version"


class _Versioned(msgspec.Struct):
    schema_version: Annotated[int, msgspec.Meta(ge=1)] = 1


_DECODERS = {topic: msgspec.json.Decoder(schema.event) for topic, schema in SCHEMAS.items()}
_version_decoder = msgspec.json.Decoder(_Versioned)
_encoder = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """One event as JSON bytes."""
    return END_PAYLOAD if isinstance(event, EndMarker) else _encoder.encode(event)


def decode_end(payload: bytes) -> EndMarker | None:
    """The end marker, if that is what the bytes are."""
    return END if payload == END_PAYLOAD else None


def decode(topic: str, payload: bytes) -> Event:
    """One event of a topic from JSON bytes; unknown fields are ignored, and not looked into.

    Raises EventError with the reason where a field is missing or wrong, the bytes are no JSON, or the message is of a
    newer version than this knows.
    """
    if payload == END_PAYLOAD:
        return END
    try:
        if _may_say_version(payload):  # first: of a newer version all the rest may be different
            check_version(topic, _version_decoder.decode(payload).schema_version)
        return _DECODERS[topic].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"{topic}: {error}"
        raise EventError(reason) from error


def check_version(topic: str, version: int) -> None:
    """Raise EventError for a version of a topic's schema that is newer than the one known here."""
    known = SCHEMAS[topic].version
    if version > known:
        raise EventError(f"{topic}: {VERSION} {version}, this knows {known}; upgrade what reads this topic")


def _may_say_version(payload: bytes) -> bool:
    """Whether the field's name is there, or may be hidden by escapes: nearly all messages are told at a glance."""
    return b"schema_version" in payload or b"\\u" in payload
