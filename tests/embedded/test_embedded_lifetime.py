"""The servers die with their job: SIGKILL, Ctrl-C, a killed guard, a forked child that lives on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from recsys.embedded.kafka import kafka_unavailable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="killing the guard takes the server along on Linux")

JOB = """
import json, os, sys, time
from pathlib import Path
from recsys.embedded.kafka import EmbeddedKafka
from recsys.embedded.redis import EmbeddedRedis, check_redis

if __name__ == "__main__":
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    guards = []
    if options.get("kafka"):
        kafka = EmbeddedKafka(folder)
        guards.append(kafka.guard_pid)
    redis = EmbeddedRedis(folder)
    guards.append(redis.guard_pid)
    redis.ready()
    if options.get("kafka") == "ready":
        kafka.ready()
    pids = {"guards": guards}
    if options.get("fork"):
        pids["fork"] = os.fork()
        if not pids["fork"]:
            time.sleep(60)
            os._exit(0)
    try:
        print(json.dumps(pids), flush=True)  # who reads it may interrupt at once
        time.sleep(60)
    except KeyboardInterrupt:
        check_redis(redis.url)
        print(json.dumps({"served_after_ctrl_c": True}), flush=True)
"""


@contextmanager
def job(folder: Path, **options: Any) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A job that has started its servers, and what it printed; it leads a process group of its own."""
    script = folder / "job.py"
    script.write_text(JOB)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def family(guards: list[int]) -> list[psutil.Process]:
    """The guards and what runs under them."""
    processes = [psutil.Process(pid) for pid in guards]
    return processes + [child for process in processes for child in process.children(recursive=True)]


def names(processes: list[psutil.Process]) -> set[str]:
    return {process.name() for process in processes}


def left_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (left := [p for p in processes if _is_running(p)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _is_running(process: psutil.Process) -> bool:
    # Orphans that nobody reaps (a container without an init) stay as zombies.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


needs_kafka = pytest.mark.skipif(kafka_unavailable() is not None, reason=str(kafka_unavailable()))


@needs_kafka
def test_sigkill_of_the_job(tmp_path: Path) -> None:
    with job(tmp_path, kafka="ready") as (process, pids):
        servers = family(pids["guards"])
        assert len(servers) == 4 and {"java", "redis-server"} <= names(servers)
        process.kill()
        process.wait()
        assert left_after(servers, seconds=8.0) == []


@needs_kafka
def test_ctrl_c_while_kafka_starts(tmp_path: Path) -> None:
    with job(tmp_path, kafka="starting") as (process, pids):
        servers = family(pids["guards"])
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole foreground group
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"served_after_ctrl_c": True}
        assert process.wait(timeout=10) == 0
        assert left_after(servers, seconds=8.0) == []


@needs_kafka
def test_sigkill_of_the_guards(tmp_path: Path) -> None:
    with job(tmp_path, kafka="starting") as (process, pids):
        servers = family(pids["guards"])
        assert len(servers) == 4
        for guard in pids["guards"]:
            os.kill(guard, signal.SIGKILL)
        assert left_after(servers, seconds=4.0) == []
        assert process.poll() is None


def test_a_forked_child_that_holds_the_pipe_keeps_no_server(tmp_path: Path) -> None:
    with job(tmp_path, fork=True) as (process, pids):
        servers = family(pids["guards"])
        process.kill()
        process.wait()
        try:
            assert left_after(servers, seconds=4.0) == []
            assert psutil.pid_exists(pids["fork"])
        finally:
            os.kill(pids["fork"], signal.SIGKILL)


def test_the_folder_is_free_again_right_after_a_killed_job(tmp_path: Path) -> None:
    from redis import Redis

    from recsys.embedded.redis import EmbeddedRedis, running_redis

    with job(tmp_path) as (process, _):
        url = running_redis(tmp_path)
        assert url is not None
        with Redis.from_url(url) as client:
            client.set("row", "7")
        process.kill()
        process.wait()
        with EmbeddedRedis(tmp_path) as redis, Redis.from_url(redis.url) as client:
            assert client.get("row") == b"7"
