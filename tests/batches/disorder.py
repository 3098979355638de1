"""Streams of events in some disorder, shared by tests of joiners that stop and go on."""

import random

from joined_timeline import Lists

from recsys.batches.join import ActionKind, JoinConfig
from recsys.events import FACTS, Action, Event, Facts, Impression

CONFIG = JoinConfig(
    actions={
        "like": ActionKind(window_seconds=10, final=True),
        "click": ActionKind(window_seconds=6, label=0.5, history=False),
        "look": ActionKind(window_seconds=3, label=0.25),
    },
    keep_items=3,
    remember_seconds=20,
)


def disorderly(draw: random.Random) -> list[Event]:
    """A minute of facts, impressions and actions: tied, early, late, out of order, twice, of nobody, of no kind."""
    users, num_impressions = [7, 8, -9, "anna", "7", "émile"], draw.randrange(1, 50)
    events: list[Event] = [Facts("user", user, draw.choice([0, 20_000]), {"age": draw.randrange(90)}) for user in users]
    events += [Facts("item", item, 0, {"genres": draw.sample(["Drama", "War", "X"], 2)}) for item in range(9)]
    for number in range(num_impressions):
        name = f"r{number if draw.random() < 0.9 else draw.randrange(num_impressions)}"
        shown = Impression(name, draw.choice(users), draw.randrange(9), 1000 * draw.randrange(60))
        events += [shown] * draw.choice([1] * 9 + [2])
        for _ in range(draw.choice([0, 0, 1, 1, 2, 3])):
            time_ms = max(0, shown.time_ms + 1000 * draw.randrange(-3, 14))
            kind = draw.choice(["like", "click", "look", "frown"])
            events += [Action(name, shown.user_id, kind, time_ms)] * draw.choice([1] * 9 + [2])
    events.append(Action("nobody", 7, "like", 1000 * draw.randrange(60)))
    events.sort(key=lambda event: event.time_ms)
    for _ in range(draw.randrange(6)):
        at = draw.randrange(len(events))
        events.insert(at + draw.randrange(20), events.pop(at))
    return events


def with_junk(lists: Lists, draw: random.Random) -> Lists:
    """The same with some records that can not be read."""
    for partition, items in lists.items():
        if partition.topic != FACTS:
            for _ in range(draw.randrange(3)):
                items.insert(draw.randrange(len(items)), b"junk")
    return lists
