"""What a joiner holds over many events: ``make bench-joiner-memory``, or ``python -m benches.joiner_memory``.

The events of ``benches.joining`` (features of ml100k, 50,000 users, JSON in, Arrow out) with the state on disk, one
process. Fifty times along the way a line goes to ``<folder>/joiner_memory.jsonl``: what the process holds, the files'
size, events a second of CPU time. Ids are remembered for ``--remember-seconds`` of event time, a thousand impressions
each: a run that is much longer shows what is forgotten again. Leaves ``joiner_memory.md`` and ``.svg`` there too.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benches.joining import BATCH, JOIN, MadeUp, Nowhere, clock, features_of_bench, held_mb
from recsys.batches.disk_state import JoinerDisk
from recsys.batches.join import JoinConfig
from recsys.batches.joined import JoinedStream
from recsys.batches.outbox import Outbox
from recsys.events import EndMarker
from recsys.runtime.joiner import collect_seldom
from recsys.streams.dead_letters import DeadLetters
from recsys.streams.sink import MemorySink

_POINTS = 50
Line = dict[str, float]


def measure(num_events: int, config: JoinConfig, into: Path) -> list[Line]:
    """Join so many events; a line at each point, written as it comes."""
    collect_seldom()
    features = features_of_bench()
    source, lines = MadeUp(num_events), []
    with tempfile.TemporaryDirectory() as folder, into.open("w", encoding="utf-8") as file:
        disk = JoinerDisk(Path(folder), [0], origin="bench", memory_mb=config.memory_mb, sync=config.sync)
        stream = JoinedStream(
            source, partitions=[0], config=config, features=features, dead_letters=DeadLetters(MemorySink()),
            clock=lambda: 1e9, disk=disk,
        )  # fmt: skip
        stream.poll([0], 0, BATCH)  # the facts
        outbox, facts, at, since = Outbox(disk, {}), stream.num_events, clock(source), stream.num_events
        while not _join_some(stream, outbox):
            if stream.num_events - since >= num_events // _POINTS:
                now = clock(source)
                rate = (stream.num_events - since) / (now - at) / 1000
                lines.append(_line(stream.num_events - facts, rate, Path(folder)))
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
                stream.features.acknowledge(
                    "redis", stream.features.changes("redis", 2**62).sequence
                )  # as the publisher does
                at, since = now, stream.num_events
        disk.close()
    return lines


def _join_some(stream: JoinedStream, outbox: Outbox) -> bool:
    """A poll, its commit, its messages; whether it was the last."""
    parts = stream.poll([0], 0, BATCH)
    stream.commit(outbox.messages(parts))
    waiting = outbox.unsent()
    outbox.produce(Nowhere(), waiting)
    outbox.sent(waiting)
    return any(isinstance(part, EndMarker) for _, part in parts)


def _line(num_events: int, rate: float, folder: Path) -> Line:
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "events": num_events,
        "held_mb": round(held_mb("VmRSS"), 1),
        "of_it_not_files_mb": round(held_mb("RssAnon"), 1),
        "files_mb": round(files / 2**20, 1),
        "k_events_per_cpu_second": round(rate, 2),
    }


def write_page(folder: Path, lines: Sequence[Line], about: Mapping[str, Any]) -> list[Path]:
    """The figures in a page, and the plot."""
    page, plot = folder / "joiner_memory.md", folder / "joiner_memory.svg"
    _draw(plot, lines)
    shown = lines[-1 :: -max(1, len(lines) // 10)][::-1]
    rows = [f"| {' | '.join(f'{value:,.10g}' for value in line.values())} |" for line in shown]
    header = "| events | MB held | of it no files | MB on disk | k events / CPU s |\n|---|---|---|---|---|"
    said = ", ".join(f"{name} {value:,.10g}" for name, value in about.items())
    text = f"# What a joiner holds\n\n`python -m benches.joiner_memory {said_options(about)}`: {said}.\n\n"
    page.write_text(f"{text}{header}\n" + "\n".join(rows) + f"\n\n![memory]({plot.name})\n", encoding="utf-8")
    return [page, plot]


def said_options(about: Mapping[str, Any]) -> str:
    """The options that make a page again.

    >>> said_options({"events": 10, "remember_seconds": 3600.0})
    '--events 10 --remember-seconds 3600'
    """
    return " ".join(f"--{name.replace('_', '-')} {value:.10g}" for name, value in about.items())


def _draw(path: Path, lines: Sequence[Line]) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "recsys", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        xs = [line["events"] / 1e6 for line in lines]
        for name, label in (("held_mb", "held by the process"), ("files_mb", "files on disk")):
            axes.plot(xs, [line[name] for line in lines], label=label)
        axes.set_xlabel("million events")
        axes.set_ylabel("MB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, say where."""
    parser = argparse.ArgumentParser(prog="benches.joiner_memory", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--remember-seconds", type=float, default=JOIN.remember_seconds)
    parser.add_argument("--memory-mb", type=float, default=JOIN.memory_mb)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    said = parser.parse_args(arguments)
    said.folder.mkdir(parents=True, exist_ok=True)
    config = replace(JOIN, remember_seconds=said.remember_seconds, memory_mb=said.memory_mb)
    lines = measure(said.events, config, said.folder / "joiner_memory.jsonl")
    about = {name: getattr(said, name) for name in ("events", "remember_seconds", "memory_mb")}
    for path in write_page(said.folder, lines, about):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
