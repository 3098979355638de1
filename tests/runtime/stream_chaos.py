"""Streams whose parts die: ``make chaos-stream``, or ``python tests/runtime/stream_chaos.py --seeds 100``.

A seed disturbs a recorded stream (events twice, events out of order, the clock of some users ahead of the others') and
kills what carries it: the broker, which comes back after a while on the same port and folder; a joiner, whose state is
on disk; a worker. The events go into Kafka at a pace while the run learns from it. One line a seed in
``runs/chaos-stream.jsonl``; seeds that have one already are passed over.

What must hold is counted here, from the files that went in and the predictions that came out, by code that shares
nothing with the joiner: every request id exactly once, with the label that its actions give it.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "runtime")]

import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from chaos import chaos_cluster  # noqa: E402
from films import write_films  # noqa: E402
from kills import Kill, Killed, Killer  # noqa: E402

from recsys.datasets.prepared import MANIFEST, FileRecord, Manifest, Prepared, open_prepared  # noqa: E402
from recsys.embedded.kafka import EmbeddedKafka  # noqa: E402
from recsys.embedded.process import free_ports  # noqa: E402
from recsys.runtime.loopback import LoopbackCluster  # noqa: E402
from recsys.training.checkpoint import load_checkpoint  # noqa: E402

NUM_EXAMPLES, BATCH, EVENTS_PER_SECOND = 1500, 4, 250
VICTIMS = ("broker", "broker", "JoinerActor", "JoinerActor", "WorkerActor")
WINDOW_MS = 30_000  # of a like: conf/online.yaml
_JOB_SECONDS = 400.0


@dataclass
class Result:
    """One line."""

    seed: int
    mode: str
    workers: int
    joiners: int
    disturbed: dict[str, int] = field(default_factory=dict)  # events twice, moved, of users whose clock is ahead
    killed: list[Killed] = field(default_factory=list)
    spared: int = 0
    examples: int = 0
    ok: bool = False
    seconds: float = 0.0
    error: str = ""


# --- the stream


def disturb(prepared: Prepared, draw: random.Random) -> dict[str, int]:
    """Rewrite impressions and actions as a bad day would have recorded them; how many events are twice, moved, skewed.

    An event moves by less than a like's window, so that most labels are still certain (see ``expected_labels``).
    """
    ahead_ms, skewed_users = 1000 * draw.randrange(1, 600), {user for user in range(1, 41) if draw.random() < 0.25}
    counts = Counter[str]()
    for path in (prepared.impressions, prepared.actions):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            if row["user_id"] in skewed_users:
                row["time_ms"] += ahead_ms
                counts["skewed"] += 1
        rows.sort(key=lambda row: row["time_ms"])
        for at in range(len(rows)):
            if draw.random() < 0.05:
                rows.insert(min(len(rows), at + draw.randrange(1, 30)), dict(rows[at]))
                counts["twice"] += 1
        for at in range(len(rows) - 12):
            if draw.random() < 0.05:
                rows.insert(at + draw.randrange(1, 12), rows.pop(at))
                counts["moved"] += 1
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path, row_group_size=256)
    _vouch_for(prepared)
    return dict(counts)


def _vouch_for(prepared: Prepared) -> None:
    """The manifest of the files as they are now."""
    path = prepared.folder / MANIFEST
    manifest = Manifest.from_json(path.read_text())
    files = {name: FileRecord.of(prepared.folder / name) for name in manifest.files}
    path.write_text(replace(manifest, files=files).to_json())


def expected_labels(prepared: Prepared) -> dict[str, set[float]]:
    """By request id, the labels that an example may have.

    1 where the like came before anything else, of its user's partition, that is later than the window; 0 where there is
    none; either where it depends on how far other partitions' clocks have come.
    """
    impressions, actions = (pq.read_table(path).to_pylist() for path in (prepared.impressions, prepared.actions))
    shown_ms = {row["request_id"]: row["time_ms"] for row in impressions}
    liked = {row["request_id"] for row in actions if row["time_ms"] - shown_ms[row["request_id"]] <= WINDOW_MS}
    newest_ms, certain = 0, set()
    for row in _merged(impressions, actions):
        if "kind" in row and newest_ms < shown_ms[row["request_id"]] + WINDOW_MS:
            certain.add(row["request_id"])
        newest_ms = max(newest_ms, row["time_ms"])
    return {id_: {1.0} if id_ in liked & certain else {0.0, 1.0} if id_ in liked else {0.0} for id_ in shown_ms}


def _merged(*files: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """As they are sent: the file whose next event is the earlier."""
    left = [list(reversed(rows)) for rows in files]
    while any(left):
        yield min((rows for rows in left if rows), key=lambda rows: rows[-1]["time_ms"]).pop()


def predicted(folder: Path) -> list[tuple[str, float]]:
    """(request id, label) of every example that the run's workers have learned, straight from their files."""
    found: list[tuple[str, float]] = []
    for path in sorted(folder.glob("worker-*")):
        with path.open("rb") as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                found += zip(batch["request_id"].to_pylist(), batch["label"].to_pylist(), strict=True)
    return found


def judge(prepared: Prepared, folder: Path, result: Result) -> None:
    """Ids in are ids out, each once, with its label.

    In ``available`` a killed worker takes along what it has not written of its predictions: that its examples were
    learned is then for the last checkpoint to say.
    """
    learned, expected = predicted(folder / "predictions"), expected_labels(prepared)
    result.examples = len(learned)
    counts = Counter(request_id for request_id, _ in learned)
    twice = [id_ for id_, count in counts.items() if count > 1]
    missing, strange = expected.keys() - counts.keys(), counts.keys() - expected.keys()
    assert not twice, f"{len(twice)} examples were learned twice: {twice[:3]}"
    lost_with_worker = result.mode == "available" and any(k.victim == "WorkerActor" for k in result.killed)
    if lost_with_worker:
        positions = load_checkpoint(folder / "checkpoints").position.values()
        assert sum(number for _, number in positions) == len(expected), f"learned up to {positions}"
    else:
        assert not missing, f"{len(missing)} examples were not learned: {sorted(missing)[:3]}"
    assert not strange, f"{len(strange)} examples of no impression: {sorted(strange)[:3]}"
    wrong = [(id_, label) for id_, label in learned if label not in expected[id_]]
    assert not wrong, f"{len(wrong)} labels are wrong: {wrong[:3]}"
    summary = json.loads((folder / "summary.json").read_text())
    audited = {name: summary[name] for name in ("examples_lost", "examples_duplicated")}
    assert audited == {"examples_lost": len(missing), "examples_duplicated": 0}, f"the run's own audit says {audited}"


# --- what is killed


class Broker:
    """A Kafka that is started again, on its port and in its folder, a while after it was killed."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self._folder, self._draw, self._port = folder, draw, free_ports(1)[0]
        self._kafka = EmbeddedKafka(folder, port=self._port).ready()
        self._comeback: threading.Thread | None = None

    @property
    def bootstrap_servers(self) -> str:
        """``host:port``."""
        return self._kafka.bootstrap_servers

    def pids(self) -> list[int]:
        """The broker's process; whoever asks will kill it. None while one is starting."""
        if self._comeback is not None and self._comeback.is_alive():
            return []
        server = psutil.Process(self._kafka.guard_pid).children()
        if server:
            self._comeback = threading.Thread(target=self._come_back, args=(self._draw.uniform(0, 4),))
            self._comeback.start()
        return [process.pid for process in server]

    def _come_back(self, after_seconds: float) -> None:
        while self._kafka.process.poll() is None:
            time.sleep(0.05)
        time.sleep(after_seconds)
        self._kafka = EmbeddedKafka(self._folder, port=self._port).ready()

    def stop(self) -> None:
        """For good."""
        if self._comeback is not None:
            self._comeback.join()
        self._kafka.stop()


def planned(seed: int) -> tuple[Result, list[Kill], random.Random]:
    """What a seed decides."""
    draw = random.Random(f"stream {seed}")
    result = Result(seed, draw.choice(("exact", "exact", "available")), workers=draw.choice((1, 2)),
                    joiners=draw.choice((1, 2)))  # fmt: skip
    at = sorted(draw.randrange(50, NUM_EXAMPLES * 2 // 3) for _ in range(draw.choice((1, 2, 2, 3))))
    return result, [Kill(draw.choice(VICTIMS), "training", examples) for examples in at], draw


def tried(seed: int, place: Path, cluster: LoopbackCluster) -> Result:
    """One run with its kills, judged."""
    result, kills, draw = planned(seed)
    folder, data, started_at = place / f"seed-{seed}", place / f"data-{seed}", time.monotonic()
    write_films(data, num_users=40, num_items=60, num_impressions=NUM_EXAMPLES, seed=seed)
    prepared = open_prepared(data)
    result.disturbed = disturb(prepared, draw)
    broker = Broker(place / f"kafka-{seed}", draw)
    try:
        _run(result, prepared, folder, broker, kills, draw, cluster)
        judge(prepared, folder, result)
        result.ok = True
    except Exception as error:
        result.error = f"{type(error).__name__}: {error}"[:500]
    finally:
        broker.stop()
    result.seconds = round(time.monotonic() - started_at, 1)
    for each in (folder, data, place / f"kafka-{seed}"):
        shutil.rmtree(each, ignore_errors=True)
    return result


def _run(
    result: Result, prepared: Prepared, folder: Path, broker: Broker, kills: list[Kill], draw: random.Random,
    cluster: LoopbackCluster,
) -> None:  # fmt: skip
    killer = Killer(cluster, folder / "checkpoints", kills, draw, {"broker": broker.pids})
    result.killed = killer.killed
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        job = subprocess.Popen(_command(result, prepared, folder, broker, cluster), cwd=folder.parent, stdout=output,
                               stderr=output, env={**cluster.environment, "PYTHONPATH": str(ROOT)},
                               start_new_session=True)  # fmt: skip
    following = threading.Thread(target=killer.follow, args=(job,))
    following.start()
    try:
        status = job.wait(timeout=_JOB_SECONDS)
    finally:
        if job.poll() is None:
            job.send_signal(signal.SIGKILL)
            job.wait()
        following.join()
    result.spared = len(killer.left)
    if status:
        raise AssertionError(f"exit status {status}: {log.read_text()[-400:]}")


def _command(result: Result, prepared: Prepared, folder: Path, broker: Broker, cluster: LoopbackCluster) -> list[str]:
    return [
        sys.executable, "-m", "jobs.online", f"data.folder={prepared.folder}", "source=kafka",
        f"kafka.bootstrap_servers={broker.bootstrap_servers}", "source.num_partitions=2", "replay.enabled=true",
        f"replay.events_per_second={EVENTS_PER_SECOND}", "join.remember_seconds=1000000", "join.memory_mb=1",
        f"hydra.run.dir={folder}", f"batch.max_examples={BATCH}", "checkpoint.every_seconds=0.5", "checkpoint.keep=3",
        "serving.sync_seconds=0.5", f"recovery.mode={result.mode}", f"workers={result.workers}",
        f"joiners={result.joiners}", "store.shards=1", f"ray.address={cluster.address}",
    ]  # fmt: skip


@contextmanager
def told_to_end() -> Iterator[None]:
    """SIGTERM is an end like any other: no job, broker or node is left behind."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    yield
    signal.signal(signal.SIGTERM, before)


def main() -> int:
    """Every seed that has no line yet; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/chaos-stream.jsonl"))
    given = parser.parse_args()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    known = {json.loads(line)["seed"] for line in lines}
    failed = 0
    with told_to_end(), chaos_cluster() as (place, cluster):
        for seed in range(given.first, given.first + given.seeds):
            if seed in known:
                continue
            result = tried(seed, place, cluster)
            failed += not result.ok
            line = json.dumps(asdict(result))
            with given.results.open("a") as file:
                file.write(line + "\n")
            if not result.ok:
                shutil.copy(place / f"seed-{seed}.log", given.results.with_name(f"chaos-stream-{seed}.log"))
            print(line, flush=True)
    print(f"{given.seeds - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
