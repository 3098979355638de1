"""Damaged messages through a joined stream: nothing crashes, and each is in the dead letters or in the output.

20,000 here, a million by ``make fuzz-stream``; a failure names its seed, which is all it takes to see it again.
"""

import json
import os
import random
from collections import Counter

import pytest
from joined_timeline import drain, joined_stream
from judgement import judge
from mutations import message

from recsys.batches.join import ActionKind, JoinConfig
from recsys.events import ACTIONS, END_PAYLOAD, FACTS, IMPRESSIONS
from recsys.features.declarations import Feature
from recsys.hashing import id_text
from recsys.streams.memory import MemorySource
from recsys.streams.source import Partition

MANY = int(os.environ.get("RECSYS_FUZZ_MESSAGES", "1000000"))
IN_A_STREAM = 5_000
NOW = 2e9  # seconds; events are at most a minute later
FOR_EVER_SECONDS = 1e10
CONFIG = JoinConfig(
    actions={"like": ActionKind(window_seconds=FOR_EVER_SECONDS, final=True)}, remember_seconds=FOR_EVER_SECONDS
)
FEATURES = (
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="age", kind="number", source="profile.age"),
    Feature(name="genres", kind="bag", source="item.genres"),
)
TOPICS = (IMPRESSIONS, ACTIONS, FACTS)


def fuzz(seed: int) -> Counter[str]:
    """One stream of damaged messages; what they were."""
    draw = random.Random(seed)
    lists = {Partition(topic, 0): [] for topic in TOPICS}
    for number in range(IN_A_STREAM):
        topic = draw.choices(TOPICS, (3, 2, 1))[0]
        number = number if topic == IMPRESSIONS else draw.randrange(number + 1)
        lists[Partition(topic, 0)].append(message(topic, number, draw))
    bad, good, seen = set(), {topic: [] for topic in TOPICS}, Counter[str]()
    for partition, payloads in lists.items():
        for offset, payload in enumerate(payloads):
            rows = judge(partition.topic, payload, NOW)
            many = payload[:4] == b"\xff" * 4
            seen[("Arrow" if many else "JSON") + (", refused" if rows is None or None in rows else "")] += 1
            if rows is None:
                bad.add((partition.topic, offset, None))
                continue
            bad |= {(partition.topic, offset, at if many else None) for at, row in enumerate(rows) if row is None}
            good[partition.topic] += [row for row in rows if row is not None]
    lists = {partition: [*payloads, END_PAYLOAD] for partition, payloads in lists.items()}
    stream, sink = joined_stream(MemorySource(lists), 1, config=CONFIG, features=FEATURES, clock=lambda: NOW)
    examples = drain(stream)[0]
    check_letters(sink, bad)
    check_examples(examples, good, stream.counts())
    return seen


def check_letters(sink, bad: set) -> None:
    """Every bad message or row is there once, with a reason, and nothing else is."""
    letters = [json.loads(line) for lines in sink.payloads.values() for line in lines]
    found = Counter((letter["topic"], letter["offset"], letter.get("row")) for letter in letters)
    reasons = {(letter["topic"], letter["offset"], letter.get("row")): letter["reason"] for letter in letters}
    assert {key: reasons[key] for key in found.keys() - bad} == {}, "refused, and they are right"
    assert bad - found.keys() == set(), "taken, and they are wrong"
    assert set(found.values()) <= {1}
    assert all(len(letter["reason"]) > 15 for letter in letters)


def check_examples(examples: list[dict], good: dict[str, list], counts: dict[str, int]) -> None:
    """Every good impression is an example once, with the label that the good likes give it."""
    shown: dict[str, set] = {}
    for row in good[IMPRESSIONS]:
        about = (id_text(row["user_id"]), id_text(row["item_id"]), row["time_ms"])
        shown.setdefault(row["request_id"], set()).add(about)
    liked = {row["request_id"] for row in good[ACTIONS] if row["kind"] == "like"}
    assert len(examples) == len(shown) == counts["impressions"]
    for example in examples:
        assert (example["user_id"], example["item_id"], example["time_ms"]) in shown[example["request_id"]]
        assert example["label"] == (example["request_id"] in liked)
    assert counts["impressions"] + counts["duplicate_impressions"] == len(good[IMPRESSIONS])
    assert (counts["actions"], counts["facts"]) == (len(good[ACTIONS]), len(good[FACTS]))


def fuzz_many(num_messages: int) -> Counter[str]:
    seen = Counter[str]()
    for seed in range(num_messages // IN_A_STREAM):
        try:
            seen += fuzz(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert min(seen[kind] for kind in ("JSON", "Arrow", "JSON, refused", "Arrow, refused")) > 0.05 * num_messages / 2
    assert seen.total() == num_messages
    return seen


def test_damaged_messages_are_set_aside_and_the_others_are_used() -> None:
    fuzz_many(20_000)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_million_damaged_messages() -> None:
    print(dict(fuzz_many(MANY)))
