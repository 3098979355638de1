"""Histories and facts against naive scans, and the state through JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recsys.features.state import NOTHING, FactTable, FeatureState, History, user_from_json, user_to_json

IDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["7", "é", '"', "a b"]) | st.just(7)
SMALL_TIMES = st.integers(0, 12)


@given(st.lists(st.tuples(st.integers(0, 3), SMALL_TIMES)), st.integers(0, 4), st.integers(-1, 13))
def test_facts_as_of_a_time_equal_a_scan(puts: list[tuple[int, int]], of: int, at_ms: int) -> None:
    table, put_at = FactTable(), dict[tuple[int, int], dict[str, Any]]()
    for number, (id_, time_ms) in enumerate(puts):
        table.put(id_, time_ms, {"number": number})
        put_at[id_, time_ms] = {"number": number}  # the same time again replaces
    known = sorted((time_ms, facts["number"]) for (id_, time_ms), facts in put_at.items() if id_ == of)
    before = [number for time_ms, number in known if time_ms <= at_ms]
    assert table.as_of(of, at_ms) == ({"number": before[-1]} if before else {})
    assert table.as_of(of) == ({"number": known[-1][1]} if known else {})
    assert len(table) == len({id_ for id_, _ in puts})
    assert {(id_, time_ms): facts for id_, time_ms, facts in table} == put_at


def test_unknown_ids_have_no_facts_and_ids_keep_their_type() -> None:
    table = FactTable()
    table.put(7, 0, {"a": 1})
    assert table.as_of("7") is NOTHING and NOTHING == {}
    assert table.as_of(7, 0) == {"a": 1}


@given(st.lists(st.tuples(SMALL_TIMES, st.integers(0, 5))), st.integers(0, 6), st.integers(-1, 13))
def test_likes_and_impressions_are_the_latest_first_as_of_a_time(
    entries: list[tuple[int, int]], keep: int, as_of_ms: int
) -> None:
    liking, showing = History(), History()
    for time_ms, item_id in entries:
        liking.like(time_ms, item_id, keep)
        showing.show(time_ms, item_id, keep)
    # naive: after each entry, sort what is kept by (time, arrival) and drop the oldest
    kept: list[tuple[int, int, int]] = []
    for arrival, (time_ms, item_id) in enumerate(entries):
        kept = sorted([*kept, (time_ms, arrival, item_id)])
        kept = kept[max(0, len(kept) - keep) :]
    latest_first = kept[::-1]
    as_of = [item_id for time_ms, _, item_id in latest_first if time_ms <= as_of_ms]
    assert liking.liked() == showing.shown() == [item_id for _, _, item_id in latest_first]
    assert liking.liked(as_of_ms) == showing.shown(as_of_ms) == as_of
    assert (liking.num_likes, liking.num_impressions, liking.shown()) == (len(entries), 0, [])
    assert (showing.num_likes, showing.num_impressions, showing.liked()) == (0, len(entries), [])
    assert len(liking.likes) == len(showing.impressions) == min(keep, len(entries))


def test_log_odds_are_smoothed_with_four_of_each() -> None:
    assert History().like_log_odds == 0.0
    history = History(num_impressions=10, num_likes=3)
    assert history.like_log_odds == math.log((3 + 4) / (7 + 4))
    assert History(num_impressions=0, num_likes=2).like_log_odds == math.log(6 / 4)


def user(shown: Sequence[Any] = (), likes: Sequence[Any] = (), profile: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is published of a user whose history is no longer than what is kept."""
    history = {
        "shown": list(shown),
        "likes": list(likes),
        "num_impressions": len(shown),
        "num_likes": len(likes),
    }
    return {"history": history, "profile": profile or {}}


ITEMS_AT = st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 5)), max_size=12)


@given(ITEMS_AT, ITEMS_AT, st.integers(0, 50_000))
def test_recent_log_odds_are_of_the_latest_five_that_had_ten_seconds(shown, liked, as_of_ms: int) -> None:
    history = History()
    for time_ms, item_id in shown:
        history.show(time_ms, item_id, keep=20)
    for time_ms, item_id in liked:
        history.like(time_ms, item_id, keep=20)
    settled = [item for time, item in sorted(shown, key=lambda entry: entry[0]) if as_of_ms - time >= 10_000][-5:]
    num_liked = len([item for item in settled if any(i == item and time <= as_of_ms for time, i in liked)])
    num_others = len(settled) - num_liked
    assert history.recent_like_log_odds(as_of_ms) == math.log((num_liked + 2) / (num_others + 2))


def test_changes_are_those_since_a_number_and_acknowledged_ones_are_forgotten() -> None:
    state = FeatureState(keep_items=2)
    first = state.changes("redis", 0)
    assert (first.sequence, first.users, first.items) == (0, {}, {})
    state.count_impression("anna", 7, 120)
    state.put_facts("item", 7, 100, {"year": 1999})
    state.put_facts("user", "ben", 100, {"age": 20})
    second = state.changes("redis", first.sequence)
    assert second.users == {"anna": user([(120, 7)]), "ben": user(profile={"age": 20})}
    assert second.items == {7: {"year": 1999}}
    state.count_like("anna", 7, 150)
    third = state.changes("redis", second.sequence)
    assert third.users == {"anna": user([(120, 7)], [(150, 7)])}
    assert third.items == {}
    assert state.changes("redis", 0).users.keys() == {"anna", "ben"}  # nothing was acknowledged
    state.acknowledge("redis", second.sequence)
    assert state.changes("redis", second.sequence).users.keys() == {"anna"}
    assert state.changes("redis", 0).users.keys() == {"anna", "ben"}  # who comes later is told everything
    state.acknowledge("redis", third.sequence)
    fourth = state.changes("redis", third.sequence)
    assert (fourth.sequence, fourth.users, fourth.items) == (4, {}, {})


def test_what_one_publisher_has_stored_is_kept_for_another() -> None:
    state = FeatureState()
    for user in (1, 2):
        state.count_impression(user, 5, 9)
        for consumer in ("redis", "other"):
            state.changes(consumer, user - 1)
        state.acknowledge("redis", user)
    assert state.changes("redis", 2).users == {}
    assert state.changes("other", 1).users.keys() == {2}
    assert state.changes("other", 0).users.keys() == {1, 2}
    state.acknowledge("other", 2)
    state.count_impression(3, 5, 9)
    assert state.changes("other", 2).users.keys() == {3}


def test_a_change_during_publication_is_not_lost_by_its_acknowledgement() -> None:
    state = FeatureState()
    state.count_impression(1, 5, 9)
    published = state.changes("redis", 0)
    state.count_like(1, 5, 10)  # while the publisher writes
    state.acknowledge("redis", published.sequence)
    assert state.changes("redis", published.sequence).users[1] == user([(9, 5)], [(10, 5)])
    assert published.users[1] == user([(9, 5)])


def test_published_items_are_the_latest_facts() -> None:
    state = FeatureState()
    state.put_facts("item", 1, 200, {"year": 2})
    state.put_facts("item", 1, 100, {"year": 1})  # late, older
    assert state.changes("redis", 0).items == {1: {"year": 2}}
    assert state.items.as_of(1, 150) == {"year": 1}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("impression"), IDS, IDS, SMALL_TIMES),
        st.tuples(st.just("like"), IDS, IDS, SMALL_TIMES),
        st.tuples(
            st.just("facts"),
            st.sampled_from(["user", "item"]),
            IDS,
            SMALL_TIMES,
            st.dictionaries(st.sampled_from("abc"), st.integers() | st.lists(st.integers() | st.text())),
        ),
    )
)


def build(steps: list[tuple[Any, ...]], keep_items: int = 3) -> FeatureState:
    state = FeatureState(keep_items)
    for kind, *arguments in steps:
        if kind == "impression":
            state.count_impression(*arguments)
        elif kind == "like":
            state.count_like(*arguments)
        else:
            state.put_facts(*arguments)
    return state


@given(STEPS, STEPS)
def test_state_goes_on_after_json_as_if_nothing_had_happened(before, after) -> None:
    state = build(before)
    restored = FeatureState.from_json(json.loads(json.dumps(state.to_json())))
    assert restored.to_json() == state.to_json()
    assert restored.keep_items == state.keep_items
    assert restored.users() == state.users()
    changed, changed_restored = state.changes("redis", 0), restored.changes("redis", 0)  # everything counts as changed
    assert changed_restored.users == changed.users
    assert changed_restored.items == changed.items
    assert changed_restored.sequence >= changed.sequence  # no number is used for a second change
    for one in (state, restored):
        one.count_like("late", 1, 0)
        assert one.history("late").liked() == [1]
    for kind, *arguments in after:
        for one in (state, restored):
            call = {"impression": one.count_impression, "like": one.count_like, "facts": one.put_facts}[kind]
            call(*arguments)
    assert restored.to_json()["histories"] == state.to_json()["histories"]
    assert restored.to_json()["items"] == state.to_json()["items"]


def test_saved_state_is_a_copy() -> None:
    state = build([("impression", 1, 5, 9), ("like", 1, 5, 10)])
    before = user([(9, 5)], [(10, 5)])
    saved, of_user = state.to_json(), user_to_json(state, 1)
    state.count_like(1, 6, 11)
    state.count_impression(1, 6, 11)
    assert saved["histories"] == [[1, before["history"]]]
    assert of_user == before


@given(STEPS, IDS)
def test_one_user_through_json(steps, user_id) -> None:
    state = build(steps)
    saved = json.loads(json.dumps(user_to_json(state, user_id)))
    history, profile = user_from_json(saved)
    assert history == state.history(user_id)
    assert history.liked(6) == state.history(user_id).liked(6)
    assert history.shown(6) == state.history(user_id).shown(6)
    assert profile == state.profiles.as_of(user_id)
