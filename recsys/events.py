"""What travels on the topics: impressions, actions, facts, and the marker that closes a finite replay.

An impression says that an item was shown to a user; an action, that the user did something about it (``kind``:
"like", "click", …), found by ``request_id``. Facts say what is known of a user or an item from ``time_ms`` on.
All times are event times in milliseconds since 1970 (UTC). Ids are any int64, or strings.

On the wire each event is one JSON object, its type given by the topic:

>>> encode(Impression(request_id="r1", user_id=7, item_id="tt0114709", time_ms=0))
b'{"request_id":"r1","user_id":7,"item_id":"tt0114709","time_ms":0}'
>>> decode("actions", b'{"request_id":"r1","user_id":7,"kind":"like","time_ms":2000,"color":"ignored"}')
Action(request_id='r1', user_id=7, kind='like', time_ms=2000)
"""

from typing import Annotated, Any

import msgspec

from recsys.errors import EventError

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Id = Int64 | Annotated[str, msgspec.Meta(min_length=1)]
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Fact = Int64 | float | str | list[Int64 | str]

IMPRESSIONS, ACTIONS, FACTS, EXAMPLES = "impressions", "actions", "facts", "examples"


class Impression(msgspec.Struct, frozen=True):
    """An item shown to a user."""

    request_id: Annotated[str, msgspec.Meta(min_length=1)]
    user_id: Id
    item_id: Id
    time_ms: TimeMs


class Action(msgspec.Struct, frozen=True):
    """What a user did about an impression, found by its request id."""

    request_id: Annotated[str, msgspec.Meta(min_length=1)]
    user_id: Id
    kind: Annotated[str, msgspec.Meta(min_length=1)]
    time_ms: TimeMs


class Facts(msgspec.Struct, frozen=True):
    """What is known of one user (``of="user"``) or item (``of="item"``) from ``time_ms`` on."""

    of: Annotated[str, msgspec.Meta(pattern="^(user|item)$")]
    id: Id
    time_ms: TimeMs
    facts: dict[str, Fact]


class EndMarker(msgspec.Struct, frozen=True):
    """Nothing comes after this in its partition: a finite replay is over."""


Event = Impression | Action | Facts | EndMarker

END = EndMarker()
END_PAYLOAD = b'{"end":true}'

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    IMPRESSIONS: msgspec.json.Decoder(Impression),
    ACTIONS: msgspec.json.Decoder(Action),
    FACTS: msgspec.json.Decoder(Facts),
}
_encoder = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """One event as JSON bytes."""
    return END_PAYLOAD if isinstance(event, EndMarker) else _encoder.encode(event)


def decode_end(payload: bytes) -> EndMarker | None:
    """The end marker, if that is what the bytes are."""
    return END if payload == END_PAYLOAD else None


def decode(topic: str, payload: bytes) -> Event:
    """One event of a topic from JSON bytes; unknown fields are ignored.

    Raises EventError with the reason where a field is missing or wrong, or the bytes are no JSON.
    """
    if payload == END_PAYLOAD:
        return END
    try:
        return _DECODERS[topic].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"{topic}: {error}"
        raise EventError(reason) from error
