"""What users have played, and ready recommendations, in Redis: the same in whatever order a stream brings it.

A user's state is the set of their last ``keep_plays`` plays, a sorted set by time: a union that is cut to its newest.
So order is nothing to it, a duplicate changes nothing, and a late play that still belongs to the newest re-opens the
session that it is of (older ones fall out again). Sessions and base levels are made of that set when a list is.
Offsets go in the same transaction as what was learned up to them: a replay begins where the state stands.

Keys, behind the model's name: ``sessions:offsets``, ``sessions:popular``, ``sessions:plays:<user>``,
``sessions:ready:<user>``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import redis

from recsys.errors import ServiceError
from recsys.hashing import id_of_text, id_text
from recsys.models.sessions.actr import Memory, sums_between
from recsys.sessions.log import UserSplit
from recsys.sessions.plays import Play, plays_of
from recsys.sessions.sessioniser import SessionRules, sessionise

_BETWEEN = "|"  # of a time and a track
_MOST_TRIES = 100


class Heard(NamedTuple):
    """One play of a user."""

    time_seconds: int
    track: int | str


@dataclass(frozen=True)
class Ready:
    """A list of tracks, the best first, with scores, as of a time; without scores it is what is popular."""

    tracks: list[int | str]
    scores: list[float]
    time_seconds: int


# of what was heard, in order, at a time: tracks, the best first, and scores (none: it is what is popular)
Rank = Callable[[Sequence[Heard], int], tuple[list[int | str], list[float]]]


def rank_by_base_level(memory: Memory, *, gap_seconds: float, k: int) -> Rank:
    """Ranks what a user has heard by its share of the base level at a time; of equal ones, what was heard first.

    The sessions are those of ``sessionise``, of any length: a list is what the same log gives offline.
    """

    def rank(heard: Sequence[Heard], time_seconds: int) -> tuple[list[int | str], list[float]]:
        plays = plays_of([Play(user=0, track=play.track, time_ms=1000 * play.time_seconds) for play in heard])
        rules = SessionRules(gap_seconds=gap_seconds, min_tracks=1, max_tracks=len(heard), split=UserSplit())
        log, _ = sessionise(plays, rules)
        span = log.first_U1[:-1], log.first_U1[1:]
        sums_V = sums_between(log, *span, np.array([time_seconds]), memory)[0]
        best = np.argsort(-sums_V, kind="stable")[:k]
        return [log.track_ids[track] for track in best], (sums_V[best] / sums_V.sum()).tolist()

    return rank


class SessionStates:
    """The states of all users under one model's name.

    ``gap_seconds`` after a user's last play their next session may open: ready lists are as of then, and made anew
    where they are asked for later than that by ``fresh_seconds``, for rankings change with time alone. ``version``
    names what ranks: a list that another version made is made anew.
    """

    def __init__(
        self,
        client: "redis.Redis",
        *,
        model: str,
        rank: Rank,
        gap_seconds: float,
        keep_plays: int = 1000,
        fresh_seconds: float = 3600.0,
        version: str = "",
    ) -> None:
        self._client, self._prefix = client, f"{model}:sessions:"
        self.rank_by(rank, version)
        self._gap_seconds, self._keep_plays, self._fresh_seconds = gap_seconds, keep_plays, fresh_seconds

    @classmethod
    def connect(cls, url: str, **told: Any) -> "SessionStates":
        """The states in the Redis at ``url``; ServiceError at the first call where none answers."""
        return cls(redis.Redis.from_url(url), **told)

    def rank_by(self, rank: Rank, version: str) -> None:
        """From now on lists are made by this."""
        self._rank, self._version = rank, version

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def offsets(self) -> dict[int, int]:
        """The next offset of each partition that something was learned of."""
        found: Mapping[Any, Any] = _told(self._client.hgetall, f"{self._prefix}offsets")
        return {int(partition): int(offset) for partition, offset in found.items()}

    def learn(self, partition: int, played: Sequence[tuple[int, Play]], next_offset: int) -> int:
        """Add plays, each with its offset, and what follows from them, in one transaction; how many were new to it.

        Those before the offset that the state stands at are known already. ServiceError where Redis does not answer.
        """
        users = sorted({id_text(play.user) for _, play in played})
        watched = [f"{self._prefix}offsets", *(f"{self._prefix}plays:{user}" for user in users)]
        for _ in range(_MOST_TRIES):
            try:
                return _told(self._learn, partition, played, next_offset, users, watched)
            except redis.WatchError:  # another has written meanwhile
                continue
        raise ServiceError(f"Redis: others have written the same users {_MOST_TRIES} times; run fewer of these jobs")

    def popular(self, tracks: Sequence[int | str]) -> None:
        """What users without plays are told."""
        _told(self._client.set, f"{self._prefix}popular", json.dumps([id_text(track) for track in tracks]))

    def heard(self, user: int | str) -> list[Heard]:
        """A user's plays, the oldest first."""
        return _heard(_told(self._client.zrange, f"{self._prefix}plays:{id_text(user)}", 0, -1))

    def recommend(self, user: int | str, time_seconds: int) -> Ready:
        """What a user's session that opens now is told: the ready list, or one made for now where that is too old."""
        name = id_text(user)
        saved = _told(self._client.get, f"{self._prefix}ready:{name}")
        if saved is None:
            popular = _told(self._client.get, f"{self._prefix}popular")
            tracks = [] if popular is None else [id_of_text(track) for track in json.loads(popular)]
            return Ready(tracks, [], time_seconds)
        said = json.loads(saved)
        is_fresh = time_seconds - said["time_seconds"] <= self._fresh_seconds
        if is_fresh and said.get("version", "") == self._version:
            tracks = [id_of_text(track) for track in said["tracks"]]
            return Ready(tracks, said["scores"], said["time_seconds"])
        return Ready(*self._rank(self.heard(user), time_seconds), time_seconds)

    def _learn(
        self, partition: int, played: Sequence[tuple[int, Play]], next_offset: int, users: list[str], watched: list[str]
    ) -> int:
        pipe: Any
        with self._client.pipeline() as pipe:
            pipe.watch(*watched)
            stands_at = int(pipe.hget(watched[0], str(partition)) or 0)
            fresh = [play for offset, play in played if offset >= stands_at]
            known = {user: pipe.zrange(f"{self._prefix}plays:{user}", 0, -1) for user in users}
            pipe.multi()
            num_new = sum([self._add(pipe, user, known[user], fresh) for user in users])
            pipe.hset(watched[0], str(partition), str(max(stands_at, next_offset)))
            pipe.execute()
        return num_new

    def _add(self, pipe: Any, user: str, known: Sequence[bytes], fresh: Sequence[Play]) -> int:
        """Queue one user's new plays, and the ready list of all that is kept; how many were new."""
        new = {_member(play) for play in fresh if id_text(play.user) == user} - set(known)
        if not new:
            return 0
        kept = sorted(new.union(known), key=lambda member: (_time_of(member), member))[-self._keep_plays :]
        key = f"{self._prefix}plays:{user}"
        pipe.zadd(key, {member: _time_of(member) for member in new})
        pipe.zremrangebyrank(key, 0, -self._keep_plays - 1)
        heard = _heard(kept)
        opens = heard[-1].time_seconds + int(self._gap_seconds)
        tracks, scores = self._rank(heard, opens)
        ready = {
            "tracks": [id_text(track) for track in tracks], "scores": scores, "time_seconds": opens,
            "version": self._version,
        }  # fmt: skip
        pipe.set(f"{self._prefix}ready:{user}", json.dumps(ready))
        return len(new.intersection(kept))


def _member(play: Play) -> bytes:
    return f"{play.time_ms // 1000}{_BETWEEN}{id_text(play.track)}".encode()


def _time_of(member: bytes) -> int:
    return int(member.partition(_BETWEEN.encode())[0])


def _heard(members: Sequence[bytes]) -> list[Heard]:
    parts = [member.decode().partition(_BETWEEN) for member in members]
    return [Heard(int(time), id_of_text(track)) for time, _, track in parts]


def _told(call: Callable[..., Any], *arguments: Any) -> Any:
    """What Redis says; ServiceError where it does not answer."""
    try:
        return call(*arguments)
    except redis.ConnectionError as error:
        raise ServiceError(f"Redis does not answer ({error}); check redis.url and that the server runs") from error
