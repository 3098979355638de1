"""Sampling joined examples: by request id and kinds alone, counted, and with the rates beside what is kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joined_timeline import CONFIG, FEATURES, Row, drain, in_lists, memory_stream, merged, rows_of, timeline

from recsys.batches.examples import Example, ExampleRows
from recsys.batches.join import ActionKind, JoinConfig
from recsys.batches.joined import JoinedStream
from recsys.batches.sampling import Sampler, Sampling, draws
from recsys.errors import ConfigError
from recsys.events import FACTS, Action, Event
from recsys.fields import build

EVENTS = timeline()
RATES = ("keep_rate", "positive_rate", "negative_rate")
SAMPLER = Sampler(Sampling(negatives=0.25, actions={"like": 0.5}), CONFIG.actions, seed=7)
EVERY_KIND = {"like": 0.9, "click": 0.4, "look": 0.1}
UNIT = st.floats(0.001, 1)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A configuration with the section in it."""

    sampling: Sampling


def example(request_id: str, *kinds: str) -> Example:
    return Example(request_id, 1, 2, 3, 4, float(bool(kinds)), b"", kinds=kinds)


def without_rates(rows: Sequence[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in RATES} for row in rows]


def expected_sample(rows: Sequence[Row], negatives: float, positives: float) -> list[Row]:
    """Those of all rows that the draws let through."""
    draws_N = draws([row["request_id"] for row in rows], seed=7)
    rates = [positives if row["label"] else negatives for row in rows]
    return [row for row, draw, rate in zip(rows, draws_N, rates, strict=True) if draw < rate]


# --- what is kept


def test_draws_are_uniform_and_of_the_request_id_and_the_seed_alone() -> None:
    ids = [f"r{number}" for number in range(20_000)]
    draws_N = draws(ids, seed=0)
    assert draws_N.dtype == np.float64 and (draws_N >= 0).all() and (draws_N < 1).all()
    counts, _ = np.histogram(draws_N, bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared of 19 degrees: 43.8 at 0.1 %
    np.testing.assert_array_equal(draws(ids[::-1], seed=0), draws_N[::-1])
    np.testing.assert_array_equal(draws(ids[500:501], seed=0), draws_N[500:501])
    assert abs(np.corrcoef(draws_N, draws(ids, seed=1))[0, 1]) < 0.03
    assert draws([], seed=0).shape == (0,)


@given(st.lists(st.text(min_size=1), max_size=20), UNIT, UNIT, UNIT, UNIT, st.integers(0, 2**63 - 1))
def test_what_a_lower_rate_keeps_a_higher_one_keeps_too(
    ids: list[str], one: float, other: float, like: float, also: float, seed: int
) -> None:
    examples = [example(id_, *(["like"] if place % 2 else [])) for place, id_ in enumerate(ids)]
    kept = []
    for negatives, likes in ((min(one, other), min(like, also)), (max(one, other), max(like, also))):
        sampler = Sampler(Sampling(negatives=negatives, actions={"like": likes}), ["like"], seed)
        kept.append([id(one) for one in sampler.kept(examples)])
    assert set(kept[0]) <= set(kept[1])


@given(st.sets(st.sampled_from(sorted(EVERY_KIND))), UNIT)
def test_an_example_of_several_kinds_has_the_largest_of_their_rates(kinds: set[str], negatives: float) -> None:
    sampler = Sampler(Sampling(negatives=negatives, actions=EVERY_KIND), EVERY_KIND, seed=0)
    expected = max(EVERY_KIND[kind] for kind in kinds) if kinds else negatives
    assert sampler.rate_of(kinds) == expected
    examples = [example(f"r{number}", *kinds) for number in range(30)]
    kept = sampler.kept(examples)
    draws_N = draws([one.request_id for one in examples], seed=0)
    assert [one.request_id for one in kept] == [f"r{number}" for number in range(30) if draws_N[number] < expected]
    assert all((one.keep_rate, one.positive_rate, one.negative_rate) == (expected, 0.9, negatives) for one in kept)


def test_shares_kept_are_the_rates() -> None:
    sampler = Sampler(Sampling(negatives=0.02, actions={"click": 0.3}), ["click", "buy"], seed=5)
    for kinds, rate in (((), 0.02), (("click",), 0.3), (("click", "buy"), 1.0)):
        num = len(sampler.kept([example(f"{kinds}-{number}", *kinds) for number in range(20_000)]))
        assert abs(num - 20_000 * rate) <= 4 * np.sqrt(20_000 * rate * (1 - rate))


# --- in the stream


@pytest.mark.parametrize("num_partitions", [1, 2, 5])
def test_any_number_of_partitions_and_joiners_keeps_the_same_examples(num_partitions: int) -> None:
    """And they are those of the whole stream, features, histories and all: what is left out was seen all the same."""
    whole = merged(drain(memory_stream(in_lists(EVENTS, num_partitions), num_partitions)))
    expected = expected_sample(whole, negatives=0.25, positives=0.5)
    assert 40 < len(expected) < 100 and {row["label"] for row in expected} == {0.0, 1.0}
    stream = memory_stream(in_lists(EVENTS, num_partitions), num_partitions, sampler=SAMPLER)
    assert without_rates(merged(drain(stream))) == without_rates(expected)
    counts = stream.counts()
    assert (counts["examples"], counts["examples_sampled_out"]) == (200, 200 - len(expected))
    rows: dict[int, list[Row]] = {}
    for index in range(num_partitions):  # a joiner each
        lists = {
            p: items for p, items in in_lists(EVENTS, num_partitions).items() if index == p.index or p.topic == FACTS
        }
        rows |= drain(memory_stream(lists, num_partitions, partitions=[index], sampler=SAMPLER))
    assert without_rates(merged(rows)) == without_rates(expected)


def test_the_rates_go_with_the_examples() -> None:
    rows = merged(drain(memory_stream(in_lists(EVENTS, 1), sampler=SAMPLER)))
    assert {(row["label"], *(row[name] for name in RATES)) for row in rows} == {
        (0.0, 0.25, 0.5, 0.25),
        (1.0, 0.5, 0.5, 0.25),
    }
    rows = merged(drain(memory_stream(in_lists(EVENTS, 1))))
    assert {tuple(row[name] for name in RATES) for row in rows} == {(1.0, 1.0, 1.0)}


def test_kinds_that_did_not_count_make_no_positive() -> None:
    """A click after its window, and one of no declared kind: the example is one without an action."""
    config = JoinConfig(
        actions={"like": ActionKind(window_seconds=10), "look": ActionKind(window_seconds=1, label=0.25)}
    )
    sampler = Sampler(Sampling(negatives=0.5, actions={"look": 0.75}), config.actions, seed=0)
    shown = [event for event in timeline(60) if not isinstance(event, Action)]
    acted: list[Event] = []
    for event in shown:
        if hasattr(event, "request_id"):
            number = int(event.request_id[1:])
            delay_ms, kind = [(501, "look"), (1501, "look"), (301, "frown"), (701, "like")][number % 4]
            acted.append(Action(event.request_id, event.user_id, kind, event.time_ms + delay_ms))
    events = sorted([*shown, *acted], key=lambda event: event.time_ms)
    rows = merged(drain(memory_stream(in_lists(events, 1), config=config, sampler=sampler)))
    of_number: dict[int, set[tuple[float, float]]] = {}
    for row in rows:
        of_number.setdefault(int(row["request_id"][1:]) % 4, set()).add((row["label"], row["keep_rate"]))
    assert of_number == {0: {(0.25, 0.75)}, 1: {(0.0, 0.5)}, 2: {(0.0, 0.5)}, 3: {(1.0, 1.0)}}


def test_a_kind_of_label_0_has_a_rate_of_its_own() -> None:
    config = JoinConfig(
        actions={"like": ActionKind(window_seconds=10), "skip": ActionKind(window_seconds=10, label=0.0)}
    )
    sampler = Sampler(Sampling(negatives=0.25, actions={"skip": 0.5}), config.actions, seed=0)
    events = [
        Action(e.request_id, e.user_id, "skip", e.time_ms) if isinstance(e, Action) and int(e.request_id[1:]) % 2 else e
        for e in EVENTS
    ]
    rows = merged(drain(memory_stream(in_lists(events, 1), config=config, sampler=sampler)))
    assert {(row["label"], row["keep_rate"]) for row in rows} == {(0.0, 0.25), (0.0, 0.5), (1.0, 1.0)}
    assert {row["positive_rate"] for row in rows} == {1.0}


@pytest.mark.parametrize("num_polls", [1, 5, 9, 14])
def test_stopped_and_begun_again_it_keeps_counts_and_numbers_the_same(num_polls: int) -> None:
    whole = memory_stream(in_lists(EVENTS, 2), 2, sampler=SAMPLER)
    expected = drain(whole)
    first = memory_stream(in_lists(EVENTS, 2), 2, sampler=SAMPLER)
    parts = [part for _ in range(num_polls) for part in first.poll([0, 1], 0, 40)]
    state = json.loads(json.dumps(first.state()))
    second = memory_stream(in_lists(EVENTS, 2), 2, sampler=SAMPLER, restored=[state])
    parts += _until_the_end(second)
    rows: dict[int, list[Row]] = {0: [], 1: []}
    for index, part in parts:
        if isinstance(part, ExampleRows):
            assert part.first == len(rows[index])
            rows[index] += rows_of(part)
    assert rows == expected
    assert second.counts() == whole.counts()


def _until_the_end(stream: JoinedStream) -> list[tuple[int, Any]]:
    parts: list[tuple[int, Any]] = []
    while sum(not isinstance(part, ExampleRows) for _, part in parts) < len(stream.partitions):
        parts += stream.poll(stream.partitions, 0, 40)
    return parts


def test_one_feature_set_whatever_is_left_out() -> None:
    """A user's history and counts hold what was left out: the features of the last example do not tell."""
    nearly_none = Sampler(Sampling(negatives=1e-6, actions={"like": 1e-6}), CONFIG.actions, seed=0)
    streams = [memory_stream(in_lists(EVENTS, 2), 2), memory_stream(in_lists(EVENTS, 2), 2, sampler=nearly_none)]
    assert [len(merged(drain(stream))) for stream in streams] == [200, 0]
    assert streams[0].features.to_json() == streams[1].features.to_json()
    assert {feature.source for feature in FEATURES} >= {"user.likes", "user.shown", "user.like_log_odds"}


# --- what a user types


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"negatives": 0}, "sampling.negatives=0: give a number above 0 and between 0 and 1"),
        ({"negatives": 1.5}, "sampling.negatives=1.5: give a number above 0 and between 0 and 1"),
        ({"negatives": "few"}, "sampling.negatives='few': give a number"),
        ({"actions": {"like": -0.5}}, "sampling.actions.like=-0.5: give a number above 0 and between 0 and 1"),
        ({"negative": 0.5}, "unknown field 'sampling.negative'; known: negatives, actions"),
    ],
)
def test_a_rate_that_can_not_be_is_told_by_its_key(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Section, {"sampling": fields}, "")


def test_a_rate_of_an_undeclared_kind_is_a_mistake() -> None:
    sampling = build(Section, {"sampling": {"actions": {"like": 0.5, "lik": 1}}}, "").sampling
    with pytest.raises(ConfigError, match=r"unknown field 'sampling\.actions\.lik'; known: like"):
        sampling.check_kinds(CONFIG.actions)
