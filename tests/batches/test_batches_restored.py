"""A joiner stopped anywhere and begun again from its state, alone or shared out anew, loses and changes nothing."""

import json
import random
from typing import Any

import pytest
from disorder import CONFIG, disorderly, with_junk
from hypothesis import given, settings
from hypothesis import strategies as st
from joined_timeline import (
    FEATURES,
    Lists,
    in_batches,
    in_lists,
    joined_stream,
    memory_stream,
    rows_of,
    timeline,
    with_text_ids,
)

from recsys.batches.batches import BatchStream, StreamPosition, TopicFeed
from recsys.batches.examples import ExampleRows, encode_rows
from recsys.batches.join import ActionKind, JoinConfig
from recsys.batches.joined import JoinedStream
from recsys.errors import DataError
from recsys.events import (
    ACTIONS,
    END,
    END_PAYLOAD,
    EXAMPLES,
    FACTS,
    IMPRESSIONS,
    Action,
    EndMarker,
    Facts,
    Impression,
)
from recsys.features.declarations import Feature
from recsys.features.state import FeatureState
from recsys.streams.memory import MemorySource
from recsys.streams.source import Partition

EVENTS = timeline(40)
Numbered = dict[int, dict[int, dict[str, Any]]]  # partition -> number of the example -> the example


def take(stream: JoinedStream, into: Numbered, ended: set[int], draw: random.Random) -> None:
    """One poll: examples by number, the same where they come again."""
    only = [index for index in stream.partitions if draw.random() < 0.8]
    for index, part in stream.poll(only, 0, draw.choice([1, 2, 5, 11])):
        if isinstance(part, EndMarker):
            ended.add(index)
            continue
        assert isinstance(part, ExampleRows)
        assert part.first <= len(into[index]), "some are missing"
        for number, row in enumerate(rows_of(part), part.first):
            assert into[index].setdefault(number, row) == row


def to_the_end(stream: JoinedStream, into: Numbered, draw: random.Random) -> None:
    ended: set[int] = set()
    for _ in range(3000):
        if ended == set(stream.partitions):
            return
        take(stream, into, ended, draw)
    raise AssertionError("the stream did not end")


def begun_again(lists: Lists, states: list[dict[str, Any]], draw: random.Random) -> list[JoinedStream]:
    """The partitions shared out to some number of joiners, which go on from the states of some other number."""
    num_partitions = sum(partition.topic == FACTS for partition in lists)
    num_joiners = draw.randrange(1, num_partitions + 1)
    streams = []
    for joiner in range(num_joiners):
        mine = list(range(joiner, num_partitions, num_joiners))
        source = MemorySource({p: items for p, items in lists.items() if p.topic == FACTS or p.index in mine})
        stream, _ = joined_stream(source, num_partitions, partitions=mine, restored=states, config=CONFIG)
        streams.append(stream)
    return streams


def histories(streams: list[JoinedStream]) -> list[str]:
    return sorted(repr(history) for stream in streams for history in stream.features.to_json()["histories"])


@settings(deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(0, 60), min_size=1, max_size=3), st.booleans(), st.integers())
def test_stopped_anywhere_and_shared_out_anew(num_partitions: int, stops: list[int], packed: bool, seed: int) -> None:
    draw = random.Random(seed)
    lists = in_lists(disorderly(draw), num_partitions)
    lists = with_junk(in_batches(lists, draw, junk=True) if packed else lists, draw)
    whole = memory_stream(lists, num_partitions, config=CONFIG)
    undisturbed: Numbered = {index: {} for index in range(num_partitions)}
    to_the_end(whole, undisturbed, draw)
    found: Numbered = {index: {} for index in range(num_partitions)}
    states: list[dict[str, Any]] = []
    for num_polls in stops:
        streams = begun_again(lists, states, draw)
        for stream in streams:
            for _ in range(num_polls if draw.random() < 0.7 else draw.randrange(60)):
                take(stream, found, set(), draw)
        states = [json.loads(json.dumps(stream.state())) for stream in streams]
        for stream in streams:
            for _ in range(draw.randrange(20)):  # what comes after the state is taken comes again
                take(stream, found, set(), draw)
    streams = begun_again(lists, states, draw)
    for stream in streams:
        to_the_end(stream, found, draw)  # an END comes again too
    assert found == undisturbed
    # what is counted, and what is known of users, is as if nothing had happened
    for name, count in whole.counts().items():
        if name != "facts":  # every joiner reads all of them
            assert sum(stream.counts()[name] for stream in streams) == count, name
    assert histories(streams) == histories([whole])
    for stream in streams:
        for of in ("profiles", "items"):
            assert sorted(map(repr, stream.features.to_json()[of])) == sorted(map(repr, whole.features.to_json()[of]))


@pytest.mark.parametrize("seed", range(5))
def test_a_message_half_of_whose_events_are_joined_is_gone_on_with(seed: int) -> None:
    draw = random.Random(seed)
    lists = in_batches(in_lists(with_text_ids(EVENTS), 1), draw, junk=True)
    whole, undisturbed, found, num_stops = memory_stream(lists, config=CONFIG), {0: {}}, {0: {}}, 0
    to_the_end(whole, undisturbed, draw)
    stream = memory_stream(lists, config=CONFIG)
    ended: set[int] = set()
    while not ended:
        take(stream, found, ended, draw)
        state = json.loads(json.dumps(stream.state()))
        if state["begun"] and draw.random() < 0.7:
            num_stops += 1
            stream = memory_stream(lists, config=CONFIG, restored=[state])
            assert stream.state()["begun"] == state["begun"]  # stopped again before anything is read
    assert num_stops > 0 and found == undisturbed
    unlike = {"facts", "dead_letters"}
    assert {n: c for n, c in stream.counts().items() if n not in unlike} == {
        n: c for n, c in whole.counts().items() if n not in unlike
    }
    assert stream.num_events == whole.num_events and histories([stream]) == histories([whole])


def send(stream: JoinedStream, topic: dict[Partition, list[Any]], num_polls: int, draw: random.Random) -> None:
    """What a joiner sends to the topic of examples in so many polls."""
    for _ in range(num_polls):
        for index, part in stream.poll(stream.partitions, 0, draw.choice([1, 2, 5, 30])):
            payload = END_PAYLOAD if isinstance(part, EndMarker) else encode_rows(part)
            topic[Partition(EXAMPLES, index)].append(payload)


def batches(
    topic: dict[Partition, list[Any]], start: StreamPosition, **limits: Any
) -> list[tuple[Any, StreamPosition]]:
    """The batches from a position on, as plain values, each with its position."""
    source = MemorySource(topic)
    source.seek({Partition(EXAMPLES, index): offset for index, (offset, _) in start.items()})
    stream = BatchStream(TopicFeed(source), FEATURES, start=start, **limits)
    found = []
    for _ in range(1000):
        if stream.finished:
            return found
        for batch, position, _ in stream.poll(0):
            bags = {name: (bag.ids_N.tolist(), bag.offsets.tolist()) for name, bag in batch.bags.items()}
            values = (batch.request_ids, batch.labels_B.tolist(), batch.times_ms_B.tolist(), batch.numbers_BM.tolist())
            found.append(((bags, *values), position))
    raise AssertionError("the stream did not end")


@settings(deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 60), max_size=2),
    st.sampled_from([1, 3, 7, 50]),
    st.sampled_from([None, 0, 1.5, 10]),
    st.integers(),
)
def test_batches_do_not_tell_that_a_joiner_has_sent_examples_twice(
    num_partitions: int, stops: list[int], max_examples: int, max_seconds: float | None, seed: int
) -> None:
    """From the beginning, and from the position of any batch."""
    draw, limits = random.Random(seed), {"max_examples": max_examples, "max_seconds": max_seconds}
    lists = in_lists(disorderly(draw), num_partitions)
    undisturbed: dict[Partition, list[Any]] = {Partition(EXAMPLES, index): [] for index in range(num_partitions)}
    send(memory_stream(lists, num_partitions), undisturbed, 500, draw)
    topic: dict[Partition, list[Any]] = {partition: [] for partition in undisturbed}
    states: list[dict[str, Any]] = []
    for num_polls in [*stops, 500]:
        stream = memory_stream(lists, num_partitions, restored=states)
        send(stream, topic, num_polls, draw)
        states = [json.loads(json.dumps(stream.state()))]
        send(stream, topic, draw.randrange(20), draw)
    beginning = dict.fromkeys(range(num_partitions), (0, 0))
    expected = [values for values, _ in batches(undisturbed, beginning, **limits)]
    found = batches(topic, beginning, **limits)
    assert [values for values, _ in found] == expected
    for at in draw.sample(range(len(found)), min(3, len(found))):
        position = found[at][1]
        assert set(position) == set(beginning)
        assert [values for values, _ in batches(topic, position, **limits)] == expected[at + 1 :]


def test_numbers_survive_json_to_the_last_bit() -> None:
    """A feature of 0.1 + 0.2, a label that is no float32, and the greatest times and ids."""
    shown = Impression("r", 2**63 - 1, -(2**63), 2**53)
    lists = in_lists([Facts("user", shown.user_id, 0, {"age": 0.1 + 0.2}), shown], 1, end=False)
    lists[Partition(IMPRESSIONS, 0)].append(END)
    lists[Partition(ACTIONS, 0)].append(Action("r", shown.user_id, "click", 2**53))
    config = JoinConfig(actions={"click": ActionKind(window_seconds=6, label=0.1)})
    features = [
        Feature(name="age", kind="number", source="profile.age"),
        Feature(name="i", kind="id", source="item.id"),
    ]
    whole, _ = joined_stream(MemorySource(lists), 1, config=config, features=features, clock=lambda: 2**53)
    for _ in range(3):
        whole.poll([0], 0)
    state = json.loads(json.dumps(whole.state()))
    (waiting,) = state["partitions"]["0"]["joiner"]["pending"]
    assert waiting[1:] == [{"age": 0.30000000000000004, "i": [-(2**63)]}, 0.1, ["click"]]


def test_features_are_numbered_above_what_was_published() -> None:
    lists = in_lists(EVENTS, 1)
    stream = memory_stream(lists)
    into: Numbered = {0: {}}
    draw = random.Random(0)
    for _ in range(40):
        take(stream, into, set(), draw)
    again = memory_stream(lists, restored=[stream.state()])
    assert again.features.changes("redis", 0).sequence >= stream.features.changes("redis", 0).sequence
    above = FeatureState.restored([stream.state()["features"]], lambda user: user != 7, above=1000)
    assert (
        above.changes("redis", 1000).users.keys() == stream.features.changes("redis", 0).users.keys()
    )  # facts are everybody's
    assert stream.features.history(7).num_impressions > above.history(7).num_impressions == 0
    assert above.history(8) == stream.features.history(8)
    assert above.changes("redis", 1000).items.keys() == stream.features.changes("redis", 0).items.keys()


def test_a_state_names_the_first_record_that_changed_nothing() -> None:
    lists = in_lists(EVENTS, 1)
    stream = memory_stream(lists)
    while stream.num_events < 60:
        stream.poll([0], 0, max_events=20)
    position = {(topic, index): offset for topic, index, offset in stream.state()["position"]}
    read = stream.position()
    assert position[IMPRESSIONS, 0] <= read[Partition(IMPRESSIONS, 0)]
    assert position[ACTIONS, 0] <= read[Partition(ACTIONS, 0)]
    counts = stream.counts()
    assert position[IMPRESSIONS, 0] == counts["impressions"]


def test_a_message_of_the_topic_that_is_none_ends_the_run_and_says_where() -> None:
    at = Partition(EXAMPLES, 1)
    feed = TopicFeed(MemorySource({at: [END_PAYLOAD, b"not Arrow"]}))
    with pytest.raises(
        DataError, match=r"examples-1, offset 1: not a message of examples \(9 bytes\).*see who else does"
    ):
        feed.poll([1], 0)
