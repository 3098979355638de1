"""Online training beside training on batches that lie in memory: part of ``make bench-stream``.

The same model, examples and batches of ml100k: once in this process, in memory, over rows of its own; once read by a
worker from Kafka, over the parameter server. Per second of CPU that the worker itself gets, the ratio is what streaming
costs it. Then the whole job, joiner, shards, broker and all on this machine's cores; and at half of that rate, how long
it takes until what was learned is readable in Redis. Leaves ``online.json`` and ``online.html`` in ``runs/bench``.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benches.neighbours import Neighbours
from benches.result import Result, Target, against, alone, beside, write_results
from benches.running import Told, command_line, run
from recsys.batches.batch import LabelledBatch
from recsys.batches.batches import BatchStream, TopicFeed
from recsys.batches.examples import encode_rows
from recsys.batches.joined import JoinedStream
from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import event_files
from recsys.embedded.kafka import EmbeddedKafka
from recsys.events import END, END_PAYLOAD, EXAMPLES
from recsys.models.recommender import Recommender
from recsys.rows.first_use import compile_kernels
from recsys.rows.local import LocalRows
from recsys.runtime.actors import start_actor, wait_for
from recsys.runtime.cluster import ray_session
from recsys.runtime.events import KafkaEvents, ParquetEvents
from recsys.runtime.settings import OnlineSettings, build_settings
from recsys.runtime.shards import Begin, start_shards
from recsys.runtime.worker import Task, WorkerActor
from recsys.streams.dead_letters import DeadLetters
from recsys.streams.kafka_topics import create_topics
from recsys.streams.memory import MemorySource
from recsys.streams.source import Partition
from recsys.training.trainer import Trainer

TITLE = "Online training"
RATE, CPU_RATE = "examples/s", "examples per CPU second of the worker"
OF_MEMORY = Target(value=0.7)
P50, P99 = Target(value=1000, bound="most"), Target(value=3000, bound="most")
PEER = "batches in memory, rows in this process"

Messages = dict[int, list[bytes]]  # of the examples topic, by partition


@dataclass(frozen=True)
class Taken:
    """What a pass over all examples took."""

    cpu_seconds: float
    seconds: float


class TimedWorker(WorkerActor):
    """A worker that says what it has used."""

    def timed(self) -> Taken:
        """``run``, timed."""
        cpu, started = time.process_time(), time.perf_counter()
        self.run()
        return Taken(time.process_time() - cpu, time.perf_counter() - started)


def settings_for(said: Sequence[str], folder: Path, max_examples: int) -> OnlineSettings:
    """The settings of jobs.online, but for what is ``said`` and these."""
    with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
        config = compose("online", [*said, f"batch.max_examples={max_examples}"])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return build_settings(plain, folder)


def joined(settings: OnlineSettings, folder: Path) -> Messages:
    """All examples, as a joiner would send them."""
    prepared = open_prepared(settings.data_folder, settings.data_name)
    num_partitions = settings.topology.num_partitions
    events = ParquetEvents(paths=event_files(prepared, settings.replay.limit, folder), num_partitions=num_partitions)
    messages: Messages = {index: [] for index in range(num_partitions)}
    still_open = set(messages)
    with events.open(range(num_partitions)) as source:
        stream = JoinedStream(
            source,
            partitions=range(num_partitions),
            config=settings.join,
            features=settings.blueprint.features,
            dead_letters=DeadLetters(folder),
            times=settings.times,
        )
        while still_open:
            for index, part in stream.poll(still_open):
                messages[index].append(END_PAYLOAD if part is END else encode_rows(part))  # type: ignore[arg-type]
                still_open -= {index} if part is END else set()
    return messages


def batches_of(messages: Messages, settings: OnlineSettings) -> list[LabelledBatch]:
    """The batches that a worker cuts."""
    source = MemorySource({Partition(EXAMPLES, index): list(payloads) for index, payloads in messages.items()})
    stream = BatchStream(TopicFeed(source), settings.blueprint.features, max_examples=settings.max_examples)
    batches: list[LabelledBatch] = []
    while not stream.finished:
        batches += [cut.batch for cut in stream.poll()]
    return batches


def in_memory(settings: OnlineSettings, batches: Sequence[LabelledBatch]) -> Taken:
    """One pass in this process."""
    recommender = Recommender(settings.blueprint)
    trainer = Trainer(recommender, LocalRows(recommender.groups, threads=1))
    trainer.start()
    cpu, started = time.process_time(), time.perf_counter()
    for _ in trainer.steps(batches):
        pass
    return Taken(time.process_time() - cpu, time.perf_counter() - started)


def online(settings: OnlineSettings, events: KafkaEvents, folder: Path) -> Taken:
    """One pass by a worker actor, from the examples topic, over two shards."""
    recommender = Recommender(settings.blueprint)
    begin = Begin(start=recommender.start_state(), members={0: 1})
    partitions = range(events.num_partitions)
    task = Task(
        worker=0,
        blueprint=settings.blueprint,
        shards=start_shards(recommender.groups, 2, begin),
        events=events,
        joiners=dict.fromkeys(partitions),
        start=dict.fromkeys(partitions, (0, 0)),
        predictions=folder,
        archive=folder / "archive",
        archiving=settings.archiving,
        max_examples=settings.max_examples,
    )
    worker = start_actor(TimedWorker, task, threads=8)
    taken: Taken = wait_for(worker.timed.remote())
    return taken


def per_cpu_second(said: Sequence[str], place: Path, rounds: int, told: Told) -> list[Result]:
    """Examples a CPU second of the worker, beside memory, for two sizes of batch."""
    results = []
    with EmbeddedKafka(place / "kafka") as kafka, ray_session():
        settings = settings_for(said, place, 64)
        compile_kernels(Recommender(settings.blueprint).groups, told)
        messages = joined(settings, place)
        events = KafkaEvents(bootstrap_servers=kafka.bootstrap_servers, num_partitions=len(messages))
        create_topics(kafka.bootstrap_servers, events.topics)
        with events.open_sink() as sink:
            for index, payloads in messages.items():
                for payload in payloads:
                    sink.send(Partition(EXAMPLES, index), payload)
        for max_examples in (64, 512):
            told(f"batches of {max_examples}")
            settings = replace(settings, max_examples=max_examples)
            batches = batches_of(messages, settings)
            num_examples = sum(batch.num_examples for batch in batches)
            ours: list[Taken] = []
            peers: list[Taken] = []
            for at in range(rounds + 1):  # the first warms up
                peers.append(in_memory(settings, batches))
                ours.append(online(settings, events, place / f"predictions-{max_examples}-{at}"))
            by_clock = num_examples / np.median([taken.seconds for taken in ours[1:]])
            results.append(
                against(
                    f"online training, batches of {max_examples}",
                    CPU_RATE,
                    num_examples / np.array([taken.cpu_seconds for taken in ours[1:]]),
                    PEER,
                    num_examples / np.array([taken.cpu_seconds for taken in peers[1:]]),
                    OF_MEMORY,
                    note=f"{by_clock:,.0f} a second by the clock",
                )
            )
    return results


def whole_job(said: Sequence[str], place: Path, rounds: int, told: Told) -> list[Result]:
    """The job from events to Redis: its greatest rate, and the delay at half of that."""
    told("the whole job, as fast as it can")
    runs = [job(said, place / f"fast-{at}", "batch.max_examples=512") for at in range(rounds)]
    rate = float(np.median([run["examples"] / run["seconds"] for run in runs]))
    events_rate = float(np.median([run["events_per_s"] for run in runs]))
    told(f"the whole job at half of {events_rate:,.0f} events/s")
    half = job(said, place / "half", "batch.max_examples=512", f"replay.events_per_second={events_rate / 2:.0f}",
               "batch.max_seconds=60")  # fmt: skip
    return [
        alone("the whole job on this machine's cores", RATE, [run["examples"] / run["seconds"] for run in runs]),
        alone("… events", "events/s", [run["events_per_s"] for run in runs]),
        alone(f"event read → readable in Redis at half of that ({rate / 2:,.0f} examples/s), p50", "ms",
              [half["sync_delay_ms_p50"]], P50),
        alone("… p99", "ms", [half["sync_delay_ms_p99"]], P99),
    ]  # fmt: skip


def job(said: Sequence[str], folder: Path, *overrides: str) -> dict[str, Any]:
    """The summary of one run of jobs.online."""
    command = [sys.executable, "-m", "jobs.online", f"hydra.run.dir={folder}"]
    subprocess.run([*command, *said, *overrides], check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def measure(said: Sequence[str], folder: Path, rounds: int, told: Told) -> list[Result]:
    """All measures; writes what they found into ``folder``."""
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory(prefix="bench-online-", dir=folder) as name:
        place = Path(name).resolve()
        results = per_cpu_second(said, place, rounds, told) + whole_job(said, place, rounds, told)
    results = beside(results, neighbours.cores_used())
    told(f"written: {', '.join(map(str, write_results(folder, 'online', TITLE, results, {}, [])))}")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = command_line(__doc__, quick=False)
    parser.add_argument("--data", type=Path, default=Path("data/ml100k"), help="prepared by jobs.prepare")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many impressions")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    said = [f"data.folder={given.data.resolve()}", "source=kafka"]
    said += [] if given.limit is None else [f"replay.limit={given.limit}"]
    return run(TITLE, lambda told: measure(said, given.folder, given.rounds, told))


if __name__ == "__main__":
    sys.exit(main())
