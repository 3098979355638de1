"""The joiner against an offline join over the whole list of events.

Times are in milliseconds and small, so that windows end, meet and tie often.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import log, log1p
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.batches.examples import Example
from recsys.batches.join import ActionKind, JoinConfig, Joiner
from recsys.batches.merge import FOREVER
from recsys.errors import ConfigError, DataError
from recsys.events import Action, Event, Facts, Impression
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.packing import unpack
from recsys.features.state import FeatureState
from recsys.fields import build

KINDS = {
    "like": ActionKind(window_seconds=0.010, final=True),
    "view": ActionKind(window_seconds=0.020, label=0.5, history=False),
    "save": ActionKind(window_seconds=0.005),
}
WINDOW_MS, KEEP = 20, 3
CONFIG = JoinConfig(actions=KINDS, remember_seconds=1000.0, keep_items=KEEP)
FEATURES = [
    Feature(name="liked", kind="bag", source="user.likes"),
    Feature(name="seen", kind="bag", source="user.shown"),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
    Feature(name="shown", kind="number", source="user.log_impressions"),
    Feature(name="age", kind="id", source="profile.age"),
    Feature(name="item", kind="id", source="item.id"),
    Feature(name="year", kind="id", source="item.year"),
    Feature(name="hour", kind="id", source="time.hour_of_day"),
]


def joiner_of(config: JoinConfig = CONFIG) -> Joiner:
    return Joiner(config, Extractor(FEATURES), FeatureState(config.keep_items))


def values_of(example: Example) -> dict[str, Any]:
    values = unpack(example.values, [feature.kind == "number" for feature in FEATURES])
    return dict(zip([feature.name for feature in FEATURES], values, strict=True))


def in_order(events: Sequence[Event]) -> list[Event]:
    """Event-time order, impressions first among equals: what the merge hands to a joiner."""
    return sorted(events, key=lambda event: (event.time_ms, isinstance(event, Action)))


class Row(NamedTuple):
    """What is expected of one example."""

    user_id: int
    item_id: int
    time_ms: int
    emitted_ms: int
    label: float
    values: dict[str, Any]


class Fate(NamedTuple):
    """What becomes of one impression, from its own actions alone."""

    emitted_ms: int
    label: float
    likes: list[tuple[int, int]]  # places in the order of events: of the action, and where it becomes known


class OfflineJoin:
    """The oracle: look at the whole list, as often as needed."""

    def __init__(self, events: list[Event], facts: list[Facts]) -> None:
        self.events, self.facts = in_order(events), facts
        self.counts: Counter[str] = Counter(facts=len(facts))
        self.place: dict[str, int] = {}  # of the first impression of each request id
        for place, event in enumerate(self.events):
            if isinstance(event, Impression):
                new = self.place.setdefault(event.request_id, place) == place
                self.counts["impressions" if new else "duplicate_impressions"] += 1
        self.fates = {request_id: self._fate(request_id) for request_id in self.place}
        self._count_the_rest()
        self.rows = {request_id: self._row(request_id) for request_id in self.place}

    def _fate(self, request_id: str) -> Fate:
        at = self.place[request_id]
        shown_ms = self.events[at].time_ms
        mine = [
            (place, event)
            for place, event in enumerate(self.events)
            if isinstance(event, Action) and event.request_id == request_id and event.kind in KINDS
        ]
        inside = [
            (place, event)
            for place, event in mine
            if event.time_ms - shown_ms <= round(1000 * KINDS[event.kind].window_seconds)
        ]
        final = [place for place, event in inside if KINDS[event.kind].final]
        last = final[0] if final else len(self.events)
        counted = {event.kind: (place, event) for place, event in reversed(inside) if place <= last}
        before = [(place, event) for place, event in mine if place <= last]
        if not final:
            before = [(place, event) for place, event in before if event.time_ms <= shown_ms + WINDOW_MS]
        self.counts["actions_after_emission"] += len(mine) - len(before)
        self.counts["actions_outside_window"] += len([one for one in before if one not in inside])
        self.counts["duplicate_actions"] += len([one for one in before if one in inside]) - len(counted)
        return Fate(
            emitted_ms=max(shown_ms, self.events[last].time_ms) if final else shown_ms + WINDOW_MS,
            label=max((KINDS[kind].label for kind in counted), default=0.0),
            likes=[(place, max(place, at)) for kind, (place, _) in counted.items() if KINDS[kind].history],
        )

    def _count_the_rest(self) -> None:
        for event in self.events:
            if isinstance(event, Action):
                self.counts["actions"] += 1
                if event.kind not in KINDS:
                    self.counts["actions_of_unknown_kind"] += 1
                elif event.request_id not in self.place:
                    self.counts["actions_without_impression"] += 1
        self.counts["examples"] = self.counts["impressions"]

    def _row(self, request_id: str) -> Row:
        at = self.place[request_id]
        shown = self.events[at]
        earlier = [  # in the order of their places
            other for other, place in self.place.items() if place < at and self.events[place].user_id == shown.user_id
        ]
        likes = [
            (self.events[place].time_ms, known_at, place, self.events[self.place[other]].item_id)
            for other in earlier
            for place, known_at in self.fates[other].likes
            if known_at < at
        ]
        others = max(len(earlier) - len(likes), 0)
        values = {
            "liked": [item_id for *_, item_id in sorted(likes, reverse=True)][:KEEP],
            "seen": [self.events[self.place[other]].item_id for other in reversed(earlier)][:KEEP],
            "odds": log((len(likes) + 4) / (others + 4)),
            "shown": log1p(len(earlier)),
            "age": self._fact("user", shown.user_id, shown.time_ms, "age"),
            "item": [shown.item_id],
            "year": self._fact("item", shown.item_id, shown.time_ms, "year"),
            "hour": [0],
        }
        fate = self.fates[request_id]
        return Row(shown.user_id, shown.item_id, shown.time_ms, fate.emitted_ms, fate.label, values)

    def _fact(self, of: str, id_: int, time_ms: int, name: str) -> list[int]:
        known = [fact for fact in self.facts if fact.of == of and fact.id == id_ and fact.time_ms <= time_ms]
        newest = max(known, key=lambda fact: (fact.time_ms, self.facts.index(fact)), default=None)
        return [] if newest is None or name not in newest.facts else [newest.facts[name]]


TIMES = st.integers(0, 90)
REQUESTS = st.integers(0, 7).map("r{}".format)
EVENTS = st.lists(
    st.builds(Impression, REQUESTS, st.integers(0, 2), st.integers(0, 4), TIMES)
    | st.builds(Action, REQUESTS, st.just(0), st.sampled_from(["like", "view", "save", "other"]), TIMES),
    max_size=30,
)
FACTS = st.lists(
    st.builds(Facts, st.just("user"), st.integers(0, 2), TIMES, st.builds(lambda n: {"age": n}, st.integers(0, 99)))
    | st.builds(Facts, st.just("item"), st.integers(0, 4), TIMES, st.builds(lambda n: {"year": n}, st.integers(0, 99))),
    max_size=8,
    unique_by=lambda fact: (fact.of, fact.id, fact.time_ms),
)


def as_rows(examples: Sequence[Example]) -> dict[str, Row]:
    rows = {
        example.request_id: Row(
            example.user_id,
            example.item_id,
            example.time_ms,
            example.emitted_ms,
            example.label,
            values_of(example),
        )
        for example in examples
    }
    assert len(rows) == len(examples), "a request id was emitted twice"
    return rows


@given(EVENTS, FACTS, st.randoms(use_true_random=False))
def test_the_joiner_equals_the_offline_join(events: list[Event], facts: list[Facts], draw: random.Random) -> None:
    joiner, examples = joiner_of(), list[Example]()
    for fact in facts:
        assert joiner.process(fact) == []
    for event in in_order(events):
        if draw.random() < 0.5:  # watermarks between the events change nothing
            examples += joiner.advance(draw.randint(0, event.time_ms))
        examples += joiner.process(event)
        assert joiner.waiting == joiner.counts.impressions - len(examples)
    examples += joiner.advance(FOREVER)
    expected = OfflineJoin(events, facts)
    assert as_rows(examples) == expected.rows
    emitted = [example.emitted_ms for example in examples]
    assert emitted == sorted(emitted)
    assert {name: count for name, count in asdict(joiner.counts).items() if count} == {
        name: count for name, count in expected.counts.items() if count
    }


@given(EVENTS, st.randoms(use_true_random=False))
def test_late_events_still_give_one_example_each_and_never_one_in_the_past(events, draw) -> None:
    joiner, examples, watermark_ms = joiner_of(), list[Example](), -1
    for event in events:  # in any order: partitions that were idle woke
        joined = joiner.process(event)
        assert all(example.emitted_ms >= watermark_ms for example in joined)
        watermark_ms = max(watermark_ms, event.time_ms)
        if draw.random() < 0.5:
            joined += joiner.advance(watermark_ms)
        examples += joined
    rest = joiner.advance(FOREVER)
    assert all(example.emitted_ms >= watermark_ms for example in rest)
    examples += rest
    emitted = [example.emitted_ms for example in examples]
    assert emitted == sorted(emitted)
    assert as_rows(examples).keys() == {event.request_id for event in events if isinstance(event, Impression)}


def shown(request_id: str, time_ms: int, user_id: int = 1, item_id: int = 5) -> Impression:
    return Impression(request_id, user_id, item_id, time_ms)


def done(request_id: str, kind: str, time_ms: int) -> Action:
    return Action(request_id, 1, kind, time_ms)


def outcome(examples: Sequence[Example]) -> list[tuple[str, int, float]]:
    return [(example.request_id, example.emitted_ms, example.label) for example in examples]


def test_a_final_action_emits_at_once_and_others_wait_for_the_longest_window() -> None:
    joiner = joiner_of()
    assert joiner.process(shown("a", 0)) == joiner.process(shown("b", 0)) == []
    assert joiner.process(done("b", "view", 1)) == []
    assert outcome(joiner.process(done("a", "like", 2))) == [("a", 2, 1.0)]
    assert joiner.advance(WINDOW_MS) == []  # an action of this very millisecond may still come
    assert outcome(joiner.advance(WINDOW_MS + 1)) == [("b", WINDOW_MS, 0.5)]


@pytest.mark.parametrize(("delay_ms", "label"), [(0, 1.0), (10, 1.0), (11, 0.0)])
def test_the_last_millisecond_of_a_window_counts(delay_ms: int, label: float) -> None:
    joiner = joiner_of()
    joiner.process(shown("a", 100))
    examples = joiner.process(done("a", "like", 100 + delay_ms)) + joiner.advance(FOREVER)
    assert [example.label for example in examples] == [label]
    assert joiner.counts.actions_outside_window == (label == 0.0)


def test_windows_are_whole_milliseconds() -> None:
    assert JoinConfig(actions={"like": ActionKind(window_seconds=1.001)}).window_ms == 1001


def test_an_action_before_its_impression_counts_from_the_impression_on() -> None:
    joiner = joiner_of()
    assert joiner.process(done("a", "like", 3)) == []
    assert joiner.process(shown("b", 8)) == []
    assert outcome(joiner.process(shown("a", 10))) == [("a", 10, 1.0)]  # not at 3: that watermark is past
    joiner.process(shown("c", 11))
    of_b, of_c = joiner.advance(FOREVER)
    assert (values_of(of_b)["liked"], values_of(of_c)["liked"]) == ([], [5])


def test_an_impression_does_not_see_its_own_action_or_one_of_the_same_time() -> None:
    joiner = joiner_of()
    joiner.process(shown("a", 0, item_id=8))
    (first,) = joiner.process(done("a", "like", 5))
    joiner.process(shown("b", 6))
    examples = joiner.advance(FOREVER)
    assert values_of(first)["liked"] == [] and values_of(examples[0])["liked"] == [8]
    tied = joiner_of()
    for event in in_order([shown("a", 0, item_id=8), done("a", "like", 5), shown("b", 5)]):
        tied.process(event)
    assert values_of(tied.advance(FOREVER)[0])["liked"] == []


def test_duplicates_are_counted_and_never_a_second_example_or_a_second_like() -> None:
    joiner = joiner_of()
    events = [
        shown("a", 0),
        shown("a", 1),
        done("a", "save", 2),
        done("a", "save", 3),
        done("a", "like", 4),
        done("a", "like", 5),
        shown("a", 6),
    ]
    examples = [example for event in events for example in joiner.process(event)] + joiner.advance(FOREVER)
    assert outcome(examples) == [("a", 4, 1.0)]
    counts = joiner.counts
    assert (counts.duplicate_impressions, counts.duplicate_actions, counts.actions_after_emission) == (
        2,
        1,
        1,
    )
    assert joiner.features.history(1).num_likes == 2  # one "save", one "like"
    assert joiner.features.history(1).num_impressions == 1


def test_an_action_of_a_missing_impression_is_counted_when_it_is_forgotten() -> None:
    joiner = joiner_of(JoinConfig(actions=KINDS, remember_seconds=0.1))
    joiner.process(done("nowhere", "like", 0))
    joiner.advance(WINDOW_MS + 100)
    assert joiner.counts.actions_without_impression == 0
    joiner.advance(WINDOW_MS + 101)
    assert joiner.counts.actions_without_impression == 1
    joiner.process(shown("nowhere", 200))
    assert outcome(joiner.advance(FOREVER)) == [("nowhere", 220, 0.0)]


@pytest.mark.parametrize("early", [False, True])
def test_an_emitted_id_is_remembered_for_remember_seconds_after_its_window(early: bool) -> None:
    """Also where the action came first: that it was noted then must not cut this short."""
    joiner = joiner_of(JoinConfig(actions=KINDS, remember_seconds=0.1))
    if early:
        joiner.process(done("a", "like", 0))
    joiner.process(shown("a", 100))
    examples = joiner.process(done("a", "like", 100)) if not early else []
    assert joiner.counts.examples == 1 and len(examples) == (not early)
    joiner.process(shown("a", 100 + WINDOW_MS + 100))
    assert joiner.counts.duplicate_impressions == 1
    joiner.process(shown("a", 100 + WINDOW_MS + 101))
    assert (joiner.counts.impressions, joiner.counts.duplicate_impressions) == (2, 1)


def test_the_state_of_a_long_stream_stays_small() -> None:
    """Everything about a request is gone after window + remember_seconds, twice (once from its emission)."""
    draw = random.Random(3)
    joiner = joiner_of(JoinConfig(actions=KINDS, remember_seconds=0.05, keep_items=KEEP))
    num_impressions, num_examples, largest = 0, 0, 0
    for time_ms in range(4000):
        request_id = f"r{time_ms}"
        if time_ms % 5:  # every fifth has an action only
            num_impressions += 1
            num_examples += len(joiner.process(shown(request_id, time_ms, draw.randrange(3), draw.randrange(9))))
        for kind in draw.sample(["like", "view", "save"], draw.randrange(3)):
            about = f"r{max(0, time_ms - draw.randrange(40))}" if time_ms % 5 else request_id
            num_examples += len(joiner.process(done(about, kind, time_ms)))
        largest = max(largest, sum(map(len, vars(joiner.kept).values())))
    num_examples += len(joiner.advance(FOREVER))
    assert num_examples == num_impressions == 3200
    assert largest < 8 * (2 * WINDOW_MS + 50)
    assert set(map(len, vars(joiner.kept).values())) == {0}
    assert all(len(joiner.features.history(user).likes) <= KEEP for user in range(3))


def test_facts_that_no_feature_can_be_made_of_are_refused_once() -> None:
    joiner = joiner_of()
    joiner.process(Facts("item", 5, 0, {"year": 1999}))
    with pytest.raises(DataError, match="'year'"):
        joiner.process(Facts("item", 5, 1, {"year": 0.5}))
    joiner.process(shown("a", 2))
    (example,) = joiner.advance(FOREVER)
    assert values_of(example)["year"] == [1999]
    assert joiner.counts.facts == 1


GOOD: dict[str, Any] = {"actions": {"like": {"window_seconds": 10, "final": True}}, "remember_seconds": 5}


def test_a_join_config_from_yaml() -> None:
    config = build(JoinConfig, GOOD, "join")
    assert config.actions == {"like": ActionKind(window_seconds=10, final=True)}
    assert (config.window_ms, config.remember_seconds, config.keep_items) == (10_000, 5, 20)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "join.actions is not given; set join.actions="),
        ({"actions": {}}, "join.actions={}: give fields by name (not empty)"),
        ({**GOOD, "windows": 3}, "'join.windows'; known: actions, remember_seconds, keep_items"),
        (
            {"actions": {"like": {"window": 3}}},
            "'join.actions.like.window'; known: window_seconds, final",
        ),
        ({"actions": {"like": {"final": True}}}, "join.actions.like.window_seconds is not given"),
        ({"actions": {"like": {"window_seconds": 0}}}, "join.actions.like.window_seconds=0: give a number above 0"),
        ({"actions": {"like": {"window_seconds": float("nan")}}}, "window_seconds=NaN: give a number above 0"),
        ({"actions": {"like": {"window_seconds": float("inf")}}}, "window_seconds=Infinity: give a number above 0"),
        ({**GOOD, "remember_seconds": -1}, "join.remember_seconds=-1: give a number of at least 0"),
        ({"actions": {"like": {"window_seconds": 1, "label": 2}}}, "label=2: give a number between 0 and 1"),
        ({**GOOD, "keep_items": "abc"}, "join.keep_items='abc': give a whole number of at least 0"),
        ({**GOOD, "keep_items": -1}, "join.keep_items=-1: give a whole number of at least 0"),
    ],
)
def test_a_wrong_join_config_says_what_and_what_is_known(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(JoinConfig, fields, "join")
    assert said in str(caught.value) and "\n" not in str(caught.value)
