"""What actors and the job note reaches Prometheus: scraped over HTTP from the Ray node, as values."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import ray

from recsys.runtime.actors import start_actor, wait_for
from recsys.runtime.cluster import metrics_targets, ray_session, write_metrics_targets
from recsys.runtime.metrics import METRICS, SECONDS, LagMetrics, RunMetrics, ShardMetrics, WorkerMetrics
from recsys.streams.unread import Lag

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 90
Samples = dict[tuple[str, ...], float]
LINE = re.compile(r"ray_(recsys_\w+?)(_bucket|_count)?\{(.*)\} (\S+)")


def noting() -> type:
    """A kind of actor that notes what a shard and a worker would; local, since actors can not import a test."""

    class Noting:
        def note(self, number: int) -> None:
            shard, worker = ShardMetrics(number), WorkerMetrics(number)
            for _ in range(3):
                shard.pulled(0.0015, 100)
            shard.pushed(0.3, np.int64(7))  # type: ignore[arg-type]  # numbers come out of numpy too
            shard.pushed(0.004, 0)  # nothing is nothing to add
            shard.state(applied_step=9, queued_parts=2, staleness_steps=1, rows=1000 + number, bytes=64_000)
            worker.step(0.02, 0.003, 64)
            worker.step(0.03, 0.003, 36)

    return Noting


@pytest.fixture(scope="module")
def scraped() -> Samples:
    """Every sample of ours, from a Ray that nobody else has noted anything on."""
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_metrics_report_interval_ms": "500"},
        capture_output=True,
        text=True,
        timeout=270,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {tuple(key): value for key, value in json.loads(done.stdout)}


def scrape() -> Samples:
    """Every sample by (name, label=value, …), once two actors and a job have noted theirs.

    The job joins a Ray that answers already: one that starts with it gives up on exporting anything where the agent of
    its node is not up within thirty seconds (Ray's own limit), which it may not be on a machine with much to do.
    """
    with ray_session():
        [target] = metrics_targets()
        once_it_answers(target)
        actors = [start_actor(noting()) for _ in range(2)]
        wait_for([actor.note.remote(number) for number, actor in enumerate(actors)])
        environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        job = subprocess.Popen([sys.executable, __file__, "job"], stdin=subprocess.PIPE, env=environment)
        try:
            return samples_once_complete(target)
        finally:
            job.communicate(timeout=60)


def note_as_a_job_would() -> None:
    """What a run notes of itself, from a process that stays until its input ends."""
    with ray_session():
        run = RunMetrics()
        run.checkpointed(2.5, 0.25, 123_456)
        run.checkpoint_age(4.0)
        run.recovered(6.5)
        run.lost_steps(3)
        LagMetrics().lag({0: Lag(12, 0.5), 1: Lag(0, 0.0)})
        RunMetrics().lost_steps(2)  # another part of the job adds to the same
        sys.stdin.read()


def once_it_answers(target: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://{target}/metrics", timeout=10).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers at {target}"
            time.sleep(0.2)


def samples_once_complete(target: str) -> Samples:
    """What Prometheus has read, over all answers, once every metric was in one for whoever has it."""
    samples: Samples = {}
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        samples |= parsed(urllib.request.urlopen(f"http://{target}/metrics", timeout=10).read().decode())
        series = {key[:2] for key in samples}
        missing = [key for key in wanted_series() if key not in series]
        if not missing:
            return samples
        assert time.monotonic() < deadline, f"never exported: {missing}"
        time.sleep(0.2)


def wanted_series() -> list[tuple[str, ...]]:
    numbers = ("0", "1")
    return [
        key
        for name, metric in METRICS.items()
        for key in ([(name, f"{metric.label}={n}") for n in numbers] if metric.label else [(name,)])
    ]


def parsed(text: str) -> Samples:
    """Samples by name and our own labels; of a histogram, ``le`` is one, and the count has none."""
    samples = {}
    for line in text.splitlines():
        if match := LINE.fullmatch(line):
            name, part, labels, value = match.groups()
            found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            own = [f"{label}={found[label]}" for label in ("shard", "worker", "partition", "le") if label in found]
            samples[(name, *own, *(["count"] if part == "_count" else []))] = float(value)
    return samples


def test_histograms_count_in_the_right_buckets(scraped: Samples) -> None:
    for shard in ("shard=0", "shard=1"):
        assert scraped["recsys_pull_seconds", shard, "count"] == 3
        assert scraped["recsys_pull_seconds", shard, "le=0.001"] == 0
        assert scraped["recsys_pull_seconds", shard, "le=0.002"] == 3
        assert scraped["recsys_push_seconds", shard, "le=0.005"] == 1
        assert scraped["recsys_push_seconds", shard, "le=0.5"] == 2
    assert scraped["recsys_step_seconds", "worker=1", "le=0.02"] == 1
    assert scraped["recsys_step_seconds", "worker=1", "count"] == 2
    assert scraped["recsys_wait_seconds", "worker=1", "le=0.005"] == 2


@pytest.mark.parametrize(
    ("name", "number", "value"),
    [
        ("recsys_pulled_rows_total", "shard=0", 300),
        ("recsys_pushed_rows_total", "shard=0", 7),
        ("recsys_rows", "shard=0", 1000),
        ("recsys_rows", "shard=1", 1001),
        ("recsys_bytes", "shard=1", 64_000),
        ("recsys_applied_step", "shard=1", 9),
        ("recsys_queued_parts", "shard=1", 2),
        ("recsys_staleness_steps", "shard=1", 1),
        ("recsys_examples_total", "worker=0", 100),
        ("recsys_lag_events", "partition=0", 12),
        ("recsys_lag_seconds", "partition=0", 0.5),
        ("recsys_lag_seconds", "partition=1", 0),
        ("recsys_checkpoint_age_seconds", None, 4.0),
        ("recsys_checkpoint_seconds", None, 2.5),
        ("recsys_checkpoint_pause_seconds", None, 0.25),
        ("recsys_checkpoint_bytes", None, 123_456),
        ("recsys_recovery_seconds", None, 6.5),
        ("recsys_lost_steps_total", None, 5),
    ],
)
def test_counters_and_gauges(name: str, number: str | None, value: float, scraped: Samples) -> None:
    assert scraped[(name, number) if number else (name,)] == value


def test_boundaries_are_1_2_5_of_every_power_of_ten() -> None:
    assert SECONDS[:4] == (0.0001, 0.0002, 0.0005, 0.001)
    assert SECONDS[-1] == 50.0
    assert list(SECONDS) == sorted(set(SECONDS))


def test_to_note_a_value_takes_microseconds_with_or_without_a_ray() -> None:
    """A step takes a few milliseconds; a thousandth of that is what a note may cost (it costs a fifth of it)."""
    shard = ShardMetrics(0)
    started = time.perf_counter()
    for _ in range(2000):
        shard.pulled(0.001, 100)
    assert (time.perf_counter() - started) / 2000 < 100e-6


def test_a_file_of_targets_is_all_or_nothing(tmp_path: Path, ray_is_up: None) -> None:
    path = tmp_path / "metrics.json"
    write_metrics_targets(path)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
    [group] = json.loads(path.read_text())
    assert group == {"labels": {"job": "ray"}, "targets": metrics_targets()}
    [target] = group["targets"]
    assert target.startswith("127.0.0.1:")


if __name__ == "__main__":
    note_as_a_job_would() if sys.argv[1:] == ["job"] else print(json.dumps(list(scrape().items())))
