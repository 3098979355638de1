import dataclasses
from collections import Counter
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets import prepare as prepare_module
from recsys.datasets.audit import Audit, audit
from recsys.datasets.prepare import DATASETS
from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import Pace, replay_events, replay_repeatedly
from recsys.errors import ConfigError, DataError
from recsys.events import Action, Facts, Impression, decode, encode


@pytest.fixture
def prepared(ml100k_folder, tmp_path):
    tiny = dataclasses.replace(DATASETS["ml100k"], editions={5: "tiny"})
    prepare_module._prepare(tiny, tmp_path / "out", ml100k_folder, None, print)
    return open_prepared(tmp_path / "out")


@pytest.fixture
def prepared_latest(latest_folder, tmp_path):
    tiny = dataclasses.replace(DATASETS["ml_latest_small"], editions={4: "tiny"})
    prepare_module._prepare(tiny, tmp_path / "latest", latest_folder, None, print)
    return open_prepared(tmp_path / "latest")


def by_sorting(prepared) -> list[tuple]:
    """The oracle: both files as rows, sorted by time."""
    rows = [
        (row["time_ms"], "impressions", row["request_id"]) for row in pq.read_table(prepared.impressions).to_pylist()
    ]
    rows += [(row["time_ms"], "actions", row["request_id"]) for row in pq.read_table(prepared.actions).to_pylist()]
    return sorted(rows)


@pytest.mark.parametrize("limit", [None, 3])
def test_a_replay_that_repeats_goes_on_in_time_under_request_ids_of_its_own(prepared, limit):
    once = list(replay_events(prepared, limit))
    recorded = [(topic, event) for topic, event in once if topic != "facts"]
    repeated = list(islice(replay_repeatedly(prepared, limit), len(once) + 2 * len(recorded)))
    assert repeated[: len(once)] == once
    first, second = (repeated[len(once) + n * len(recorded) :][: len(recorded)] for n in (0, 1))
    about = prepared.manifest
    later_ms = first[0][1].time_ms - recorded[0][1].time_ms
    assert later_ms > about.last_time_ms - about.first_time_ms and later_ms % 2 == 0
    for number, part in ((1, first), (2, second)):
        for (topic, event), (was_in, was) in zip(part, recorded, strict=True):
            assert topic == was_in and event.time_ms == was.time_ms + number * later_ms
            assert event.request_id == f"{was.request_id}~{number}" and event.user_id == was.user_id
    times = [event.time_ms for _, event in repeated]
    assert times == sorted(times)


def test_facts_come_first_then_events_in_order_of_time(prepared):
    events = list(replay_events(prepared))
    before = 880_000_000_000 - 1
    assert events[:7] == [
        (
            "facts",
            Facts("user", 1, before, {"age": 24, "gender": "M", "occupation": "technician", "zip_code": "85711"}),
        ),
        (
            "facts",
            Facts("user", 2, before, {"age": 53, "gender": "F", "occupation": "other", "zip_code": "T8H1N"}),
        ),
        (
            "facts",
            Facts("user", 3, before, {"age": 33, "gender": "M", "occupation": "writer", "zip_code": "00501"}),
        ),
        (
            "facts",
            Facts("item", 10, before, {"title": "Misérables, Les (1995)", "genres": ["Drama"], "year": 1995}),
        ),
        (
            "facts",
            Facts(
                "item",
                20,
                before,
                {"title": 'Toy "Story" (1995)', "genres": ["Animation", "Comedy"], "year": 1995},
            ),
        ),
        ("facts", Facts("item", 30, before, {"title": "Nameless", "genres": []})),  # its year is null
        ("facts", Facts("item", 40, before, {"title": "Never rated", "genres": ["Drama"], "year": 1971})),
    ]
    assert [(event.time_ms, topic, event.request_id) for topic, event in events[7:]] == by_sorting(prepared)
    assert events[7] == ("impressions", Impression("ml100k-0", 2, 10, before + 1))
    assert isinstance(events[-1][1], Action) and events[-1][1].request_id == "ml100k-4"


def test_every_event_survives_the_wire(prepared):
    for topic, event in replay_events(prepared):
        assert decode(topic, encode(event)) == event


def test_users_of_whom_nothing_is_known_send_no_facts(prepared_latest):
    facts = [event for topic, event in replay_events(prepared_latest) if topic == "facts"]
    assert [(event.of, event.id) for event in facts] == [("item", 1), ("item", 2), ("item", 3)]
    assert facts[2].facts == {"title": "Hyena Road", "genres": []}


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 99])
def test_limit_keeps_the_first_impressions_and_their_actions(prepared, limit):
    whole, limited = list(replay_events(prepared)), list(replay_events(prepared, limit))
    first = {f"ml100k-{row}" for row in range(limit)}
    assert limited == [(topic, event) for topic, event in whole if topic == "facts" or event.request_id in first]
    assert sum(topic == "impressions" for topic, _ in limited) == min(limit, 5)


def test_a_limit_below_one_is_refused(prepared):
    with pytest.raises(ConfigError, match="limit is 0; it must be at least 1"):
        replay_events(prepared, 0)


def test_pace_keeps_an_absolute_schedule():
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds + 0.25  # every sleep lasts too long

    pace = Pace(2.0, clock=lambda: now[0], sleep=sleep)
    for num_sent in range(5):
        pace.wait(num_sent)
    assert slept == [0.5, 0.25, 0.25, 0.25]
    now[0] = 200.0  # held up: no sleep until the schedule is caught up with
    pace.wait(5)
    pace.wait(200)
    assert slept[4:] == []
    pace.wait(201)
    assert slept[4:] == [0.5]


def test_no_pace_never_sleeps_and_a_senseless_one_is_refused():
    Pace(None, sleep=lambda seconds: pytest.fail("slept")).wait(10**9)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=rf"events_per_second is {rate}; it must be above 0"):
            Pace(rate)


def audit_by_counting(published: list[str], trained: list[str]) -> tuple[int, int]:
    counts = Counter(trained)
    return sum(counts[name] == 0 for name in published), sum(counts[name] - 1 for name in counts)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([0, 1, 2, 3, 4], (0, 0)),
        ([4, 3, 2, 1, 0], (0, 0)),
        ([], (5, 0)),
        ([0, 0, 0, 2, 2, 4], (2, 3)),
    ],
)
def test_audit_counts_lost_and_duplicated(prepared, rows, expected):
    trained = [f"ml100k-{row}" for row in rows]
    assert audit_by_counting([f"ml100k-{row}" for row in range(5)], trained) == expected
    columns = [
        trained,
        iter(trained),
        pa.array(trained, pa.large_string()),
        pa.chunked_array([trained[:2], trained[2:]], pa.string()),
        pa.array(trained, pa.string()).dictionary_encode(),
    ]
    for column in columns:
        assert audit(prepared, column) == Audit(*expected)


def test_audit_under_a_limit_counts_the_first_impressions_only(prepared):
    assert audit(prepared, ["ml100k-0", "ml100k-0"], limit=2) == (1, 1)
    with pytest.raises(DataError, match=r"1 of 2 trained ids are not request ids of the first 2 impressions in"):
        audit(prepared, ["ml100k-0", "ml100k-2"], limit=2)


def test_audit_of_impressions_recorded_twice_wants_each_once(prepared):
    recorded = pq.read_table(prepared.impressions)
    pq.write_table(pa.concat_tables([recorded, recorded.slice(1, 2)]), prepared.impressions)
    assert audit(prepared, [f"ml100k-{row}" for row in range(5)]) == (0, 0)
    assert audit(prepared, ["ml100k-0", "ml100k-1", "ml100k-1"]) == (3, 1)


def test_audit_refuses_strangers(prepared):
    with pytest.raises(DataError, match=r"2 of 3 trained ids are not request ids of the impressions in .*'r9' first"):
        audit(prepared, ["ml100k-0", "r9", "r9"])
    with pytest.raises(DataError, match=r"1 of 1 trained ids .*, None first"):
        audit(prepared, pa.array([None], pa.string()))
