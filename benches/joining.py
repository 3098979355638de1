"""The joiner by itself: ``python -m benches.joining``. JSON events in, joined examples out as Arrow.

The same events are joined with the state in memory and on disk, with the features of ml100k. Kafka is left out: events
come encoded, messages go to a sink that drops them. Events a second are of one core: the time of this process on all
its threads, compaction included, without that of making the events. Memory is what the process holds after each tenth
of the events; ids are remembered for an hour of event time, some 3.6 million of them. Leaves ``joining.json`` and
``joining.html`` in ``runs/bench``.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from benches.result import Target, against, alone, print_results, write_results
from recsys.batches.disk_state import JoinerDisk
from recsys.batches.examples import encode_rows
from recsys.batches.join import ActionKind, JoinConfig
from recsys.batches.joined import JoinedStream
from recsys.batches.outbox import Outbox
from recsys.events import ACTIONS, END_PAYLOAD, FACTS, IMPRESSIONS, Action, EndMarker, Facts, Impression, encode
from recsys.features.declarations import Feature, build_features
from recsys.runtime.joiner import collect_seldom
from recsys.streams.dead_letters import DeadLetters
from recsys.streams.sink import Headers, MemorySink
from recsys.streams.source import Partition, Position, Record, Source
from recsys.training.report import Plot

TITLE = "Joining"
_TARGET = Target(value=40)
_CONFIG = Path(__file__).resolve().parents[1] / "conf" / "data" / "ml100k.yaml"
JOIN = JoinConfig(actions={"like": ActionKind(window_seconds=30, final=True)}, memory_mb=64)
_NUM_USERS, _NUM_ITEMS = 50_000, 1_682
BATCH = 4_000
_SHOWN, _LIKED, _FACTS = Partition(IMPRESSIONS, 0), Partition(ACTIONS, 0), Partition(FACTS, 0)


class MadeUp(Source):
    """Impressions a millisecond apart, half of them liked within ten seconds; ``seconds`` of making them."""

    def __init__(self, num_events: int) -> None:
        self.partitions = (_SHOWN, _LIKED, _FACTS)
        self._num_shown = 2 * num_events // 3
        self._offsets = dict.fromkeys(self.partitions, 0)
        self._draw = random.Random(7)
        self._facts = self._make_facts()
        self._likes: dict[int, list[bytes]] = {}  # by the millisecond in which they come
        self._time_ms = 0
        self.seconds = 0.0

    def next_batch(
        self, max_records: int = 1000, timeout_seconds: float = 0.1, only: Collection[Partition] | None = None
    ) -> list[Record]:
        started = time.process_time()
        payloads: list[tuple[Partition, bytes]] = []
        if self._offsets[_FACTS] < len(self._facts):
            payloads = [(_FACTS, fact) for fact in self._facts]
        while not payloads or (len(payloads) < max_records and payloads[-1][1] != END_PAYLOAD):
            if (payloads[-1][0] if payloads else None) == _FACTS:
                break
            payloads += self._millisecond()
        records = [self._record(partition, payload) for partition, payload in payloads]
        self.seconds += time.process_time() - started
        return records

    def _millisecond(self) -> list[tuple[Partition, bytes]]:
        number, self._time_ms = self._time_ms, self._time_ms + 1
        if number >= self._num_shown + 10_000:
            return [(_SHOWN, END_PAYLOAD), (_LIKED, END_PAYLOAD)]
        made = [(_LIKED, like) for like in self._likes.pop(number, ())]
        if number < self._num_shown:
            user, name = self._draw.randrange(_NUM_USERS), f"request-{number:012d}"
            made.append((_SHOWN, encode(Impression(name, user, self._draw.randrange(_NUM_ITEMS), number))))
            if number % 2:
                at = number + self._draw.randrange(1, 10_000)
                self._likes.setdefault(at, []).append(encode(Action(name, user, "like", at)))
        return made

    def _record(self, partition: Partition, payload: bytes) -> Record:
        self._offsets[partition] += 1
        return Record(partition, self._offsets[partition] - 1, payload)

    def _make_facts(self) -> list[bytes]:
        users = [
            Facts("user", user, 0, {"age": user % 80, "gender": "F", "occupation": "writer"})
            for user in range(_NUM_USERS)
        ]
        items = [Facts("item", item, 0, {"year": 1995, "genres": ["Drama", "War"]}) for item in range(_NUM_ITEMS)]
        return [encode(fact) for fact in (*users, *items)]

    def position(self) -> Position:
        return dict(self._offsets)

    def seek(self, position: Mapping[Partition, int]) -> None:
        raise NotImplementedError

    def caught_up(self, partition: Partition) -> bool:
        return partition == _FACTS and self._offsets[_FACTS] > 0

    def lag(self) -> dict[Partition, int]:
        return dict.fromkeys(self.partitions, 0)

    def close(self) -> None:
        """Nothing is held."""


class Nowhere(MemorySink):
    """Drops what it is given."""

    def send(self, partition: Partition, payload: bytes, key: bytes | None = None, headers: Headers = ()) -> None:
        pass


def joined(num_events: int, on_disk: bool) -> dict[str, Any]:
    """Join so many events: thousands a second by tenth, and MB held after each."""
    collect_seldom()
    features = features_of_bench()
    with tempfile.TemporaryDirectory() as folder:
        disk = JoinerDisk(Path(folder), [0], origin="bench", memory_mb=JOIN.memory_mb) if on_disk else None
        source = MadeUp(num_events)
        letters = DeadLetters(MemorySink())
        stream = JoinedStream(
            source, partitions=[0], config=JOIN, features=features, dead_letters=letters, disk=disk, clock=lambda: 1e9
        )
        measured = _measured(stream, source, disk, num_events)
        if disk is not None:
            measured["disk_mb"] = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20
            disk.close()
    return measured


def _measured(stream: JoinedStream, source: MadeUp, disk: JoinerDisk | None, num_events: int) -> dict[str, Any]:
    outbox, sink = (Outbox(disk, {}) if disk else None), Nowhere()
    rates, held = [], []
    stream.poll([0], 0, BATCH)  # the facts
    before = stream.num_events
    at, has_ended = clock(source), False
    while not has_ended:
        parts = stream.poll([0], 0, BATCH)
        has_ended = any(isinstance(part, EndMarker) for _, part in parts)
        if outbox is None:
            for _, part in parts:
                _ = END_PAYLOAD if isinstance(part, EndMarker) else encode_rows(part)
        else:
            stream.commit(outbox.messages(parts))
            waiting = outbox.unsent()
            outbox.produce(sink, waiting)
            outbox.sent(waiting)
        if stream.num_events - before >= num_events // 10:
            now = clock(source)
            rates.append((stream.num_events - before) / (now - at) / 1000)
            held.append(held_mb())
            stream.features.acknowledge("redis", stream.features.changes("redis", 2**62).sequence)
            at, before = now, stream.num_events
    assert stream.counts()["examples"] == 2 * num_events // 3
    return {"rates": rates, "held_mb": held}


def clock(source: MadeUp) -> float:
    """CPU seconds of this process, without those of making the events."""
    return time.process_time() - source.seconds


def held_mb(what: str = "VmRSS") -> float:
    """MB of memory that this process holds: all of it, or of one kind (proc(5), status)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024


def features_of_bench() -> tuple[Feature, ...]:
    """Those of ml100k."""
    return build_features(yaml.safe_load(_CONFIG.read_text())["features"])


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benches.joining", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    said = parser.parse_args(arguments)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # memory is of each by itself
        memory, disk = pool.starmap(joined, [(said.events, False), (said.events, True)], chunksize=1)
    num = min(len(memory["rates"]), len(disk["rates"]))
    results = [
        alone("state on disk", "k events/s", disk["rates"], _TARGET),
        against(
            "state on disk", "k events/s", np.array(disk["rates"][:num]), "in memory", np.array(memory["rates"][:num])
        ),
        alone("held after the first tenth, on disk", "MB", disk["held_mb"][:1]),
        alone("held at the end, on disk", "MB", disk["held_mb"][-1:]),
        alone("held at the end, in memory", "MB", memory["held_mb"][-1:]),
        alone("files", "MB", [disk["disk_mb"]]),
    ]
    print_results(Console(), f"{TITLE} {said.events:,} events", results)
    x = np.linspace(0, said.events, len(disk["held_mb"]) + 1)[1:].tolist()
    plot = Plot("memory held", "events", "MB", {"on disk": (x, disk["held_mb"])})
    write_results(said.folder, "joining", TITLE, results, {"events": said.events}, [plot])
    return 0


if __name__ == "__main__":
    sys.exit(main())
