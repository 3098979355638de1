"""An online run whose Kafka asks for a login over TLS: it learns, and its password is found nowhere afterwards."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarded_kafka import GuardedKafka

from recsys.embedded.kafka import kafka_unavailable
from recsys.events import IMPRESSIONS
from recsys.runtime.events import KafkaEvents
from recsys.streams.kafka_topics import create_topics
from recsys.streams.source import Partition

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "open-sesame-51d7"
VARIABLE = "RECSYS_TEST_KAFKA_PASSWORD"
BAD = [b"", b"{", b'{"request_id":"x"}', b"\xff\xfe"]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's own files: the path is short, for the sake of its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(500)
@pytest.mark.skipif(kafka_unavailable() is not None, reason=str(kafka_unavailable()))
@pytest.mark.long
def test_a_secured_run_learns_and_leaves_no_password(
    films: Path, tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    with GuardedKafka(tmp_path / "kafka", PASSWORD) as kafka:
        events = KafkaEvents(bootstrap_servers=kafka.address, num_partitions=4, security=kafka.security(VARIABLE))
        create_topics(kafka.address, events.topics, security=events.security)
        with events.open_sink() as sink:
            for payload in BAD:
                sink.send(Partition(IMPRESSIONS, 1), payload)
        done = online(tmp_path / "run", kafka, films, ray_folder)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["source"], summary["examples"], summary["examples_lost"]) == ("kafka", 300, 0)
    assert summary["dead_letters"] == len(BAD)
    assert PASSWORD not in done.stdout + done.stderr
    assert VARIABLE in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    written = [path for folder in (tmp_path / "run", ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" and ray_folder in path.parents for path in written)
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []


def online(folder: Path, kafka: GuardedKafka, films: Path, ray_folder: Path) -> subprocess.CompletedProcess[str]:
    security = [f"+kafka.security.{name}={value}" for name, value in kafka.security(VARIABLE).items()]
    return subprocess.run(
        [
            *(sys.executable, "-m", "jobs.online", f"data.folder={films}", f"hydra.run.dir={folder}"),
            *(f"kafka.bootstrap_servers={kafka.address}", *security, "replay.enabled=true", "replay.limit=300"),
        ],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(ray_folder)},
        capture_output=True,
        text=True,
        timeout=400,
    )
