"""A user's mistake is one line that says what was wrong, the value and the remedy; exit status 2, no traceback."""

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def mistake(
    job: str, *overrides: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """(exit status, standard error) of a job run in this process: starting one takes seconds."""
    monkeypatch.setattr(sys, "argv", [job, *overrides])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"jobs.{job}").main()
    return stopped.value.code, capfd.readouterr().err


def run_job(job: str, *overrides: str, cwd: Path, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    environment.pop("HYDRA_FULL_ERROR", None)
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *overrides],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("job", "overrides", "says"),
    [
        ("online", ["tabel=full"], ["tabel"]),
        ("online", ["table=fulll"], ["table/fulll", "collisionless", "full", "hash", "unified"]),
        ("online", ["table.kind=fulll"], ["unknown table kind 'fulll'", "collisionless"]),
        ("online", ["+table.wings=2"], ["wings", "embedding_dim"]),
        ("online", ["model.hidden_sizes=[0]"], ["hidden_sizes", "0"]),
        ("online", ["workers=5"], ["num_workers 5", "4 partitions", "source.num_partitions"]),
        ("online", ["store=local"], ["store.kind=local", "store=ray"]),
        ("online", ["optimizer.rows.learning_rate=-1"], ["learning_rate", "-1"]),
        ("online", ["serving.row_format=int4"], ["int4", "float16"]),
        ("train", ["split.test=1"], ["test=1"]),
        ("online", [], ["data/ml100k", "python -m jobs.prepare data=ml100k"]),
        ("train", [], ["data/ml100k", "python -m jobs.prepare data=ml100k"]),
        ("prepare", ["data=ml_latest_small"], ["ml_latest_small", "grouplens.org", "RECSYS_DATA"]),
        ("lookup", [], ["no run with a serving cache", "jobs.online"]),
        ("rank", [], ["user is not given", "user="]),
        ("rank", ["user=7", "redis.url=redis://127.0.0.1:1/0"], ["redis://127.0.0.1:1/0", "does not answer"]),
        ("rank", ["user=7", "redis.url=http://x"], ["http://x"]),
        ("replay", ["kafka.bootstrap_servers=127.0.0.1:1"], ["127.0.0.1:1"]),
        ("publish", ["run=nowhere"], ["nowhere", "manifest.json"]),
    ],
)
def test_one_line_and_status_2(
    job: str,
    overrides: list[str],
    says: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    status, stderr = mistake(job, *overrides, monkeypatch=monkeypatch, capfd=capfd)
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert (status, len(lines)) == (2, 1), stderr
    assert lines[0].startswith(f"{job}: ")
    for words in says:
        assert words in lines[0]


def test_kafka_without_maven_and_kafka_home(films: Path, tmp_path: Path) -> None:
    """An explicit source=kafka is an error; source=auto goes on from files (tested end to end)."""
    environment = {"PATH": "/nowhere", "KAFKA_HOME": "", "XDG_CACHE_HOME": str(tmp_path), "RECSYS_DATA": str(tmp_path)}
    status, _, stderr = run_job("online", "source=kafka", f"data.folder={films}", cwd=tmp_path, env=environment)
    assert status == 2, stderr
    assert "Maven" in stderr
    assert "KAFKA_HOME" in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_a_folder_that_holds_a_run(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its published versions would count as newer than those of another run under the same name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine" / "redis").mkdir(parents=True)
    wanted = ("source=parquet", f"data.folder={films}", "hydra.run.dir=runs/mine")
    status, stderr = mistake("online", *wanted, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 2, stderr
    assert "runs/mine holds a run already (redis)" in stderr
    assert len(stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("override", ["redis.port", "kafka.port"])
def test_a_port_in_use(
    override: str,
    taken_port: int,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = (f"{override}={taken_port}", f"data.folder={films}")
    status, stderr = mistake("online", *wanted, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 2, stderr
    assert str(taken_port) in stderr
    assert "in use" in stderr
    assert len(stderr.strip().splitlines()) == 1
