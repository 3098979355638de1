"""States of sessions in a real Redis: any order, duplicates, late plays, replays and time alone."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.session_online import follow
from recsys.embedded.redis import EmbeddedRedis
from recsys.errors import ServiceError
from recsys.events import END
from recsys.models.sessions.actr import Memory, shares, sums_between
from recsys.models.sessions.questions import now
from recsys.sessions.plays import Play, plays_of
from recsys.sessions.sessioniser import SessionRules, sessionise
from recsys.streams.memory import ABORT, Aborted, MemorySource
from recsys.streams.source import Partition
from recsys.sync.session_state import Heard, SessionStates, rank_by_base_level

GAP, K = 100.0, 3
_numbers = itertools.count()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server, Redis.from_url(server.url) as connected:
        yield connected


def states(client: Redis, keep_plays: int = 1000, model: str | None = None) -> SessionStates:
    rank = rank_by_base_level(Memory(), gap_seconds=GAP, k=K)
    name = model or f"model{next(_numbers)}"
    return SessionStates(client, model=name, rank=rank, gap_seconds=GAP, keep_plays=keep_plays, fresh_seconds=50)


def play(user: int | str, track: int | str, second: int) -> Play:
    return Play(user=user, track=track, time_ms=1000 * second)


def learn(found: SessionStates, played: Sequence[Play], first: int = 0) -> int:
    return found.learn(0, list(enumerate(played, first)), first + len(played))


def test_a_ready_list_is_what_the_same_log_gives_offline(client: Redis) -> None:
    draw = np.random.default_rng(0)
    played = [play(int(draw.integers(3)), f"t{draw.integers(8)}", int(draw.integers(3000))) for _ in range(120)]
    found = states(client)
    learn(found, played)
    log, _ = sessionise(plays_of(played), SessionRules(gap_seconds=GAP, min_tracks=1, max_tracks=120))
    for place, user in enumerate(log.user_ids):
        for late in (0, 40, 10_000):  # ready, still fresh, and made anew
            opens = max(heard.time_seconds for heard in found.heard(user)) + int(GAP)
            ready = found.recommend(user, opens + late)
            time = np.array([opens if late == 40 else opens + late])
            asked = now(log, np.array([place]), time)
            shares_V = shares(sums_between(log, asked.begins_Q, asked.ends_Q, time, Memory())[0])
            assert ready.time_seconds == time[0]
            assert ready.scores == pytest.approx(sorted(shares_V, reverse=True)[:K])
            assert [shares_V[log.track_ids.index(track)] for track in ready.tracks] == pytest.approx(ready.scores)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    told=st.lists(st.tuples(st.sampled_from([1, "1"]), st.sampled_from("abc"), st.integers(0, 400)), min_size=1),
    keep=st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
def test_any_order_and_duplicates_give_the_same_state(client: Redis, told: list, keep: int, order: object) -> None:
    played = [play(*row) for row in told]
    shuffled = played + played[:3]
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = states(client, keep), states(client, keep)
    learn(one, played)
    for at, single in enumerate(shuffled):
        other.learn(0, [(at, single)], at + 1)
    for user in {row[0] for row in told}:
        assert one.heard(user) == other.heard(user)
        assert one.recommend(user, 500) == other.recommend(user, 500)
        assert len(one.heard(user)) <= keep


def test_a_late_play_reopens_its_session_and_one_too_late_falls_out(client: Redis) -> None:
    found = states(client, keep_plays=3)
    assert learn(found, [play(7, "a", 100), play(7, "b", 300)]) == 2
    assert learn(found, [play(7, "c", 200)], first=2) == 1  # between the two: it makes one session of them
    assert found.heard(7) == [Heard(100, "a"), Heard(200, "c"), Heard(300, "b")]
    assert found.recommend(7, 400).scores == pytest.approx([1 / 3] * 3)  # one session: of one age
    assert learn(found, [play(7, "z", 50)], first=3) == 0
    assert Heard(50, "z") not in found.heard(7)


def test_what_is_before_the_offset_is_not_learned_again(client: Redis) -> None:
    found = states(client)
    learn(found, [play(1, "a", 10), play(1, "b", 20)])
    assert found.offsets() == {0: 2}
    assert found.learn(0, [(0, play(1, "x", 10)), (2, play(1, "c", 30))], 3) == 1
    assert [heard.track for heard in found.heard(1)] == ["a", "b", "c"]
    found.learn(0, [], 1)
    assert found.offsets() == {0: 3}  # never back


def test_a_stream_that_is_killed_goes_on_where_the_state_stands(client: Redis) -> None:
    payloads = [b'{"user":"u%d","track":%d,"time_ms":%d}' % (at % 5, at % 11, 7000 * at) for at in range(60)]
    lists = [{Partition("plays", 0): [*part[:20], ABORT, *part[20:], b"{}", END], Partition("plays", 1): [END]}
             for part in (payloads, payloads)]  # fmt: skip
    whole, killed = states(client), states(client)
    with pytest.raises(Aborted):
        follow(MemorySource(lists[0]), killed)
    follow(MemorySource(lists[0]), killed)
    with pytest.raises(Aborted):
        follow(MemorySource(lists[1]), states(client))
    num_new, num_refused = follow(MemorySource(lists[1]), whole)
    assert (num_new, num_refused) == (60, 1)
    for user in range(5):
        assert killed.heard(f"u{user}") == whole.heard(f"u{user}")
        assert killed.recommend(f"u{user}", 500) == whole.recommend(f"u{user}", 500)
    assert follow(MemorySource(lists[1]), whole) == (0, 0)  # again: it is all known, and closed


def test_who_is_new_is_told_what_is_popular(client: Redis) -> None:
    found = states(client)
    assert found.recommend("new", 5).tracks == []
    found.popular(["a", 3])
    assert (found.recommend("new", 5).tracks, found.recommend("new", 5).scores) == (["a", 3], [])


def test_versions_do_not_mix(client: Redis) -> None:
    one, other = states(client, model="v1"), states(client, model="v2")
    learn(one, [play(1, "a", 10)])
    assert (other.heard(1), other.offsets()) == ([], {})


def test_a_redis_that_is_gone_is_told() -> None:
    gone = Redis(port=1, retry=Retry(NoBackoff(), 0))
    with pytest.raises(ServiceError, match=r"Redis does not answer .*check redis\.url"):
        states(gone).offsets()
    with pytest.raises(ServiceError, match="Redis does not answer"):
        learn(states(gone), [play(1, "a", 10)])
    gone.close()
