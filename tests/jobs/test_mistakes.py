"""A user's mistake is one line that says what was wrong, the value and the remedy; exit status 2, no traceback."""

import importlib
import os
import signal
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
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as stopped:
            importlib.import_module(f"jobs.{job}").main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
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
        ("online", ["table.kind=fulll"], ["'fulll'", "collisionless"]),
        ("online", ["+table.wings=2"], ["wings", "embedding_dim"]),
        ("online", ["model.hidden_sizes=[0]"], ["hidden_sizes", "0"]),
        ("online", ["workers=5"], ["num_workers 5", "4 partitions", "source.num_partitions"]),
        ("online", ["workers=two"], ["workers='two': give a whole number of at least 1"]),
        ("online", ["workers=true"], ["workers=true: give a whole number"]),
        ("online", ["workers=0"], ["workers=0: give a whole number of at least 1"]),
        ("online", ["store.shards=x"], ["store.shards='x': give a whole number between 1 and 1024"]),
        ("online", ["replay.limit=abc"], ["replay.limit='abc'"]),
        ("online", ["replay.enabled=perhaps"], ["replay.enabled='perhaps': give true or false, or null"]),
        ("online", ["max_minutes=abc"], ["max_minutes='abc': give a number above 0, or null"]),
        ("online", ["max_minutes=-1"], ["max_minutes=-1"]),
        ("online", ["serving.sync_seconds=nan"], ["serving.sync_seconds=NaN: give a number above 0"]),
        ("online", ["batch.max_examples=0"], ["batch.max_examples=0: give a whole number of at least 1"]),
        (
            "online",
            ["source.start=yesterday"],
            ["source.start='yesterday': give earliest or latest or checkpoint, or a whole number", "2026-01-31T12:00"],
        ),
        ("online", ["source.start=1969-12-31T23:00"], ["source.start='1969-12-31T23:00': give earliest or latest"]),
        ("online", ["experiment=syncs", "resume=runs/x"], ["resume=runs/x does not go with evaluation"]),
        ("online", ["experiment=syncs", "evaluation.syncs=[0]"], ["evaluation.syncs[0]=0: give a whole number"]),
        ("online", ["experiment=syncs", "sampling.negatives=0.5"], ["sampling does not go with evaluation"]),
        ("online", ["experiment=lost_shard", "evaluation.lost_shard.back_to=0.9"], ["back_to=0.9 is after at=0.7"]),
        ("demo", ["+evaluation={page: x}"], ["evaluation is set: an experiment is run by python -m jobs.online"]),
        ("online", ["source.start=checkpoint"], ["source.start=checkpoint goes on with a run", "resume=runs/…"]),
        ("online", ["join.actions.like.window_seconds=abc"], ["join.actions.like.window_seconds='abc'"]),
        ("online", ["sampling.negatives=0"], ["sampling.negatives=0: give a number above 0"]),
        ("online", ["+sampling.actions.like=2"], ["sampling.actions.like=2: give a number above 0"]),
        ("online", ["+sampling.actions.click=0.5"], ["unknown field 'sampling.actions.click'; known: like"]),
        ("online", ["+foo=1"], ["unknown field 'foo'", "max_minutes"]),
        (
            "online",
            ["redis.url=redis://h/0", "redis.port=7"],
            ["redis: url names its port itself; leave out redis.port=7"],
        ),
        (
            "online",
            ["source=parquet", "kafka.bootstrap_servers=localhost:9092"],
            ["source=parquet", "kafka.bootstrap_servers=localhost:9092", "leave one of them out"],
        ),
        (
            "online",
            ["kafka.bootstrap_servers=h:1", "+kafka.security.sasl_plain_password=sesame"],
            ["kafka.security.sasl_plain_password would be saved", "name: sasl_plain_password_env="],
        ),
        (
            "online",
            ["+kafka.security.security_protocol=SSL"],
            ["kafka: security is set (security_protocol)", "without bootstrap_servers"],
        ),
        (
            "online",
            ["kafka.bootstrap_servers=h:1", "+kafka.security.ssl_cafile=ca.pem"],
            ["kafka: security.ssl_cafile is set, but security_protocol=PLAINTEXT is not encrypted"],
        ),
        (
            "replay",
            ["kafka.bootstrap_servers=h:1", "+kafka.security.sasl_plain_password=sesame"],
            ["kafka: security.sasl_plain_password would be saved"],
        ),
        ("demo", ["k=abc"], ["k='abc': give a whole number of at least 1"]),
        ("demo", ["user=[1]"], ["user=[1]: give a whole number, or text, or null"]),
        ("train", ["epochs=x"], ["epochs='x': give a whole number of at least 1"]),
        ("train", ["epochs=0"], ["epochs=0: give a whole number of at least 1"]),
        ("train", ["+split.foo=1"], ["unknown field 'split.foo'; known: valid, test"]),
        ("train", ["split.test=0.95"], ["split: valid=0.1 and test=0.95 leave nothing to train on"]),
        ("train", ["order=random"], ["order='random': give shuffled or recorded, or null"]),
        ("train", ["source=archive"], ["source.folder is not given; set source.folder="]),
        ("train", ["source=archive", "source.folder=runs/none"], ["no archive in runs/none"]),
        ("train", ["+source.folder=x"], ["source: kind=parquet with folder=x; an archive has one"]),
        ("online", ["source=archive", "source.folder=x"], ["source.kind=archive", "jobs.train source=archive"]),
        ("online", ["start_from=runs/none"], ["nothing to start from: no checkpoint in", "runs/none/checkpoints"]),
        ("online", ["start_from=a", "resume=b"], ["start_from=a begins a new run, resume=b goes on with one"]),
        ("online", ["archive.min_rows=-1"], ["archive.min_rows=-1: give a whole number of at least 0"]),
        ("train", ["source=kafka"], ["source.kind=kafka", "use source=parquet", "jobs.online"]),
        ("train", ["+store.shards=2"], ["store: kind=local with shards=2; choose store=ray"]),
        ("train", ["optimizer.first_order.learning_rate=abc"], ["optimizer.first_order.learning_rate='abc'"]),
        ("rank", ["user=7", "k=abc"], ["k='abc': give a whole number of at least 1"]),
        ("rank", ["user=7", "candidates=5"], ["candidates=5: give a list"]),
        ("rank", ["user=7.5"], ["user=7.5: give a whole number, or text"]),
        ("lookup", ["ids=5"], ["ids=5: give a list"]),
        ("lookup", ["ids=[]"], ["ids=[]: give a list"]),
        ("serve", ["port=abc"], ["port='abc': give a whole number between 1 and 65535, or null"]),
        ("serve", ["host=host.invalid"], ["host=host.invalid port=8000: can not listen there"]),
        ("serve", ["host=203.0.113.1"], ["host=203.0.113.1 port=8000: can not listen there"]),
        (
            "publish",
            ["run=x", "serving.row_format=int4"],
            ["serving.row_format='int4': give float32 or float16 or int8"],
        ),
        ("publish", ["run=x", "serving.model=a:b"], ["serving: ", "'a:b'"]),
        (
            "replay",
            ["kafka.bootstrap_servers=h:1", "events_per_second=0"],
            ["events_per_second=0: give a number above 0"],
        ),
        ("prepare", ["data.name=5"], ["data.name=5: give text"]),
        ("submit", ["table=full"], ["job is not given; set job="]),
        (
            "submit",
            ["job=onlin"],
            ["unknown job 'onlin'; known: cluster, compare, demo, evaluate, export, lookup, online,"],
        ),
        ("submit", ["job=submit"], ["unknown job 'submit'"]),
        ("submit", ["job=online", "follow=maybe"], ["follow='maybe': give true or false"]),
        ("submit", ["job=online", "address=127.0.0.1:8265"], ["address=127.0.0.1:8265 is no job server's", "http://"]),
        ("submit", ["job=online", "address=http://:8265"], ["address=http://:8265 is no job server's"]),
        (
            "submit",
            ["job=online", "address=http://127.0.0.1:1"],
            ["no job server answers at http://127.0.0.1:1 ([Errno 111] Connection refused)"],
        ),
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
        ("publish", ["run=nowhere"], ["nowhere", "no checkpoint in"]),
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


@pytest.mark.parametrize("many", ["", "seed=1,2", "+kafka.security.ssl_password=sesame,sesame2"])
def test_a_password_is_refused_before_the_configuration_is_saved(
    many: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["-m", many] if many else []
    if "security" not in many:
        given.append("+kafka.security.sasl_plain_password=sesame")
    status, stderr = mistake("online", *given, "kafka.bootstrap_servers=h:1", monkeypatch=monkeypatch, capfd=capfd)
    assert status == 2 and stderr.startswith("online: kafka.security.") and "sesame" not in stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


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


def test_a_folder_that_can_not_be_made(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for folder in ("/proc/x", "file/x"):
        wanted = ("source=parquet", f"data.folder={films}", f"hydra.run.dir={folder}")
        status, stderr = mistake("online", *wanted, monkeypatch=monkeypatch, capfd=capfd)
        assert status == 2 and stderr.endswith("choose another hydra.run.dir=\n"), stderr
        assert folder in stderr and len(stderr.strip().splitlines()) == 1


def test_a_table_larger_than_memory(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ("model=dcnv2", f"data.folder={films}", "table.embedding_dim=100000000")
    status, stderr = mistake("train", *wanted, monkeypatch=monkeypatch, capfd=capfd)
    assert (status, stderr) == (2, "train: there is not enough memory; make tables, layers or batches smaller\n")


def test_a_run_that_never_began_leaves_its_folder_to_the_next(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Redis has started when it is found that no Ray answers: quickly, though Ray would go on trying."""
    monkeypatch.chdir(tmp_path)
    wanted = ("source=parquet", f"data.folder={films}", "hydra.run.dir=runs/mine", "ray.address=127.0.0.1:1")
    for _ in range(2):
        status, stderr = mistake("online", *wanted, monkeypatch=monkeypatch, capfd=capfd)
        assert status == 2
        assert stderr == (
            "online: no Ray answers at '127.0.0.1:1' ([Errno 111] Connection refused); start one, or leave out "
            "ray.address\n"
        )
    assert not (tmp_path / "runs" / "mine" / "redis").exists()


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


def test_a_port_that_serve_can_not_have(
    taken_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, stderr = mistake("serve", f"port={taken_port}", monkeypatch=monkeypatch, capfd=capfd)
    assert status == 2
    assert stderr.startswith(f"serve: host=127.0.0.1 port={taken_port}: can not listen there, ")
    assert "Address already in use" in stderr
    assert len(stderr.splitlines()) == 1
