"""jobs.session from the command line to its files, on planted plays and on a log."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.embedded.kafka import EmbeddedKafka
from recsys.embedded.kafka_install import kafka_unavailable
from recsys.embedded.redis import EmbeddedRedis
from recsys.events import END_PAYLOAD
from recsys.models.sessions.actr import Memory
from recsys.serving.session_ranker import SessionRanker
from recsys.streams.kafka import KafkaSink
from recsys.streams.kafka_topics import create_topics
from recsys.streams.source import Partition
from recsys.sync.session_state import SessionStates, rank_by_base_level
from recsys.training.session_checkpoint import load_run

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["plays.num_users=20", "plays.num_sessions=14", "plays.num_tracks=200", "table.embedding_dim=8"]


def session(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run_job("session", folder, "hydra.run.dir=run", *overrides)


def run_job(job: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a job in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *overrides],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_planted_plays_are_learned_judged_and_reported(tmp_path: Path) -> None:
    done = session(tmp_path, *SMALL, "epochs=2", "beside=[personal_top,actr]", "table=hash")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["users"], summary["sessions"], summary["tracks"]) == (20, 280, 200)
    assert list(summary["test"]) == ["pisa", "personal_top", "actr"]
    assert len(summary["valid"]) == 2 and summary["rows"]["track"] <= 100  # table=hash: of 200
    assert 0 < summary["test"]["actr"]["ndcg"]["mean"] < 1
    assert summary["test"]["actr"]["ndcg"]["std"] > 0
    assert "While it learns" in (tmp_path / "run" / "report.html").read_text()
    assert "epoch 2: loss" in done.stdout and "NDCG@10" in done.stdout
    assert load_run(tmp_path / "run").catalogue.track_ids == list(range(200))


@pytest.mark.long
def test_a_run_that_is_cut_off_goes_on_and_what_it_learned_is_served(tmp_path: Path) -> None:
    """Resumed, it has the figures of one that was not; its version ranks the plays of a topic."""
    if reason := kafka_unavailable():
        pytest.skip(reason)
    assert session(tmp_path, *SMALL, "epochs=2").returncode == 0
    cut = session(tmp_path, *SMALL, "epochs=1", "hydra.run.dir=cut")
    assert cut.returncode == 0, cut.stderr
    refused = session(tmp_path, *SMALL, "epochs=2", "hydra.run.dir=cut", "resume=cut")
    assert refused.returncode == 2 and "that run has ended" in refused.stderr
    (tmp_path / "cut" / "summary.json").unlink()  # as where the process died before its end
    other = session(tmp_path, *SMALL, "epochs=2", "hydra.run.dir=cut", "resume=cut", "session_model.window=5")
    assert other.returncode == 2 and "model.window was 20, and is 5 now" in other.stderr
    resumed = session(tmp_path, *SMALL, "epochs=2", "hydra.run.dir=cut", "resume=cut")
    assert resumed.returncode == 0, resumed.stderr
    one, other_ = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("run", "cut"))
    assert one == other_
    with EmbeddedKafka(tmp_path / "kafka") as kafka, EmbeddedRedis(tmp_path / "redis") as redis:
        done = run_job("publish", tmp_path, "run=cut", f"redis.url={redis.url}", "serving.model=songs")
        assert done.returncode == 0 and "200 tracks of cut as version cut" in done.stdout, done.stdout + done.stderr
        servers, part = kafka.bootstrap_servers, Partition("plays", 0)
        create_topics(servers, {"plays": 1})
        with KafkaSink(servers) as sink:
            for at in range(20):
                payload = json.dumps({"user": 1, "track": at % 7, "time_ms": 600_000 * at}).encode()
                sink.send(part, payload, key=b"k")
            sink.send(part, END_PAYLOAD, key=b"k")
        told = [f"kafka.bootstrap_servers={servers}", f"redis.url={redis.url}", "num_partitions=1", "run=current"]
        done = run_job("session_online", tmp_path, *told, "serving.model=songs")
        assert done.returncode == 0 and "ranking by version cut" in done.stdout, done.stdout + done.stderr
        ranker = SessionRanker.open(redis.url, "songs", gap_seconds=1200, k=10)
        states = SessionStates.connect(redis.url, model="songs", rank=ranker, gap_seconds=1200, version=ranker.version)
        with closing(states):
            opens = 600 * 19 + 1200
            ready = states.recommend(1, opens)
            assert (ready.tracks, ready.time_seconds) == (ranker(states.heard(1), opens)[0], opens)
            assert len(ready.tracks) == 10  # three of them were never heard


@pytest.mark.long
def test_a_log_is_read_and_what_it_is_stands_by_its_figures(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    number = 3000
    table = {"user": np.arange(number) % 10, "poi": draw.zipf(1.5, number) % 40,
             "date_index": np.arange(number) // 100, "hour": draw.integers(0, 24, number)}  # fmt: skip
    (tmp_path / "foursquare_sessions").mkdir()
    pq.write_table(pa.table(table), tmp_path / "foursquare_sessions" / "nyc.parquet")
    done = session(
        tmp_path, "plays=foursquare", "session_model=actr", "session_model.fit=true", "min_age_seconds=3600",
        f"plays.folder={tmp_path}/foursquare_sessions",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "stand-in" in summary["plays"] and "stand-in" in done.stdout
    assert summary["survivors"]["users"]["users"] == summary["users"] == 10
    assert summary["decay"] >= 0


@pytest.mark.long
def test_plays_in_kafka_become_lists_in_redis(tmp_path: Path) -> None:
    if reason := kafka_unavailable():
        pytest.skip(reason)
    with EmbeddedKafka(tmp_path / "kafka") as kafka, EmbeddedRedis(tmp_path / "redis") as redis:
        servers, parts = kafka.bootstrap_servers, [Partition("plays", index) for index in range(2)]
        create_topics(servers, {"plays": 2})
        with KafkaSink(servers) as sink:
            for at in range(40):
                payload = json.dumps({"user": at % 4, "track": f"t{at % 7}", "time_ms": 60_000 * at}).encode()
                sink.send(parts[at % 2], payload, key=b"k")
            for part in parts:
                sink.send(part, END_PAYLOAD, key=b"k")
        told = [f"kafka.bootstrap_servers={servers}", f"redis.url={redis.url}", "num_partitions=2"]
        for expected in ("40 new plays, 0 messages", "0 new plays, 0 messages"):
            done = run_job("session_online", tmp_path, *told)
            assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr
        rank = rank_by_base_level(Memory(), gap_seconds=1200, k=10)
        states = SessionStates.connect(redis.url, model="recsys", rank=rank, gap_seconds=1200)
        with closing(states):
            assert len(states.heard(3)) == 10
            assert states.recommend(3, 0).tracks[0] == "t3"  # one session, all of one age: what was heard first


@pytest.mark.long
def test_mistakes_are_one_line(tmp_path: Path) -> None:
    done = session(tmp_path, "plays=lfm1b", f"plays.folder={tmp_path}")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "LFM-1b_LEs.txt is not there" in done.stderr
    done = session(tmp_path, "beside=[pisa]")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "beside='pisa': choose of global_top, personal_top" in done.stderr
