"""What is killed comes back: exactly as if nothing had happened, or at the price that is told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from disturbed import QUICK, Once, assert_same_rows, assert_same_run
from killing import kill

from jobs.scale import ScaleSettings, check_partitions
from recsys.embedded.kafka import kafka_unavailable
from recsys.errors import ConfigError, ServiceError
from recsys.runtime.online import Trained, train_online
from recsys.runtime.saving import Saver
from recsys.runtime.settings import OnlineSettings, build_settings
from recsys.runtime.summary import shortfalls, summarize
from recsys.runtime.watching import WORKERS_FILE, Progress, Watch
from recsys.training.checkpoint import Checkpoint, load_checkpoint
from recsys.training.predictions import read_predictions

ROOT = Path(__file__).resolve().parents[2]
needs_kafka = pytest.mark.skipif(kafka_unavailable() is not None, reason=str(kafka_unavailable()))
pytestmark = pytest.mark.usefixtures("ray_is_up")


@pytest.fixture(scope="module")
def settings(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OnlineSettings]:
    place = tmp_path_factory.mktemp("runs")

    def build(name: str, *overrides: str) -> OnlineSettings:
        config = composed("online", "source=parquet", *QUICK, *overrides)
        config["data"]["folder"] = str(films)
        return build_settings(config, place / name)

    return build


def run(settings: OnlineSettings, *disturbances: Once) -> tuple[dict[str, Any], Checkpoint]:
    """A run with disturbances: its summary, and what it saved in the end."""

    def disturb(progress: Progress) -> None:
        for disturbance in disturbances:
            disturbance(progress)

    with train_online(settings, print, disturb) as trained:
        summary = summarize(trained)
        check_redis(trained, summary)
    assert all(disturbance.done for disturbance in disturbances), "nothing was disturbed"
    return summary, load_checkpoint(settings.checkpoints)


def check_redis(trained: Trained, summary: dict[str, Any]) -> None:
    assert summary["parity_max_abs_error"] <= 1e-5
    assert trained.finished


@pytest.fixture(scope="module")
def undisturbed(settings: Callable[..., OnlineSettings]) -> Callable[[int], tuple[OnlineSettings, Checkpoint]]:
    """By number of workers: a run to whose end nothing happened."""

    @cache
    def of(workers: int) -> tuple[OnlineSettings, Checkpoint]:
        its = settings(f"undisturbed-{workers}", f"workers={workers}")
        summary, checkpoint = run(its)
        assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
        return its, checkpoint

    return of


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("name", "workers", "victim"),
    [
        ("shard", 2, "RowShard"),
        pytest.param("worker", 2, "WorkerActor", marks=pytest.mark.long),
        pytest.param("joiner", 1, "JoinerActor", marks=pytest.mark.long),
        pytest.param("publisher", 1, "Publish", marks=pytest.mark.long),
    ],
)
def test_exact_whoever_is_killed(
    settings: Callable[..., OnlineSettings],
    undisturbed: Callable[[int], tuple[OnlineSettings, Checkpoint]],
    name: str,
    workers: int,
    victim: str,
) -> None:
    its = settings(f"exact-{name}", f"workers={workers}")
    summary, checkpoint = run(its, Once(500, lambda: kill(victim)))
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    assert [recovery["mode"] for recovery in summary["recoveries"]] == ["exact"]
    assert summary["recoveries"][0]["seconds"] > 0
    assert_same_run((its, checkpoint), undisturbed(workers))


@pytest.mark.long
@pytest.mark.timeout(280)
def test_exact_twice_and_during_recovery(
    settings: Callable[..., OnlineSettings], undisturbed: Callable[[int], tuple[OnlineSettings, Checkpoint]]
) -> None:
    its = settings("twice", "workers=1", "store.shards=2")

    others: list[subprocess.Popen[bytes]] = []

    def kill_again_as_it_recovers() -> None:
        kill("RowShard")
        another = subprocess.Popen(  # when new shards are there, long before training goes on
            [sys.executable, "-c", f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from killing import actors, kill
old = set(actors("RowShard", {os.getpid()}))
deadline = time.time() + 60
while time.time() < deadline and not set(actors("RowShard", {os.getpid()})) - old:
    time.sleep(0.02)
kill("RowShard", -1, {os.getpid()})
"""]
        )  # fmt: skip

        others.append(another)

    summary, checkpoint = run(its, Once(500, kill_again_as_it_recovers))
    assert [another.wait() for another in others] == [0]
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    assert_same_run((its, checkpoint), undisturbed(1))


@pytest.mark.timeout(280)
@pytest.mark.long
def test_available_a_lost_shard_alone_returns(settings: Callable[..., OnlineSettings]) -> None:
    its = settings("available-shard", "recovery.mode=available")
    summary, _ = run(its, Once(500, lambda: kill("RowShard")))
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    (recovery,) = summary["recoveries"]
    assert recovery["mode"] == "available" and recovery["what"].startswith("shard")
    assert summary["lost_steps"] < 1500 / 16  # no more than what came since the last checkpoint
    assert summary["auc_last_half"] > 0.8


@pytest.mark.timeout(280)
def test_available_training_goes_on_without_a_lost_shard(settings: Callable[..., OnlineSettings]) -> None:
    """Steps are taken between a shard's death and its return."""
    its = settings("available-on", "recovery.mode=available", "workers=2", "batch.max_examples=2", "store.staleness=1")
    disturbance = Once(300, lambda: kill("RowShard", 0))
    looks: list[Progress] = []

    def watch(progress: Progress) -> None:
        looks.append(progress)
        disturbance(progress)

    with train_online(its, print, watch) as trained:
        summary = summarize(trained)
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    (recovery,) = summary["recoveries"]
    assert recovery["what"] in ("shard 0", "shard 1")  # the one of the older process, which Ray may give either
    assert 0 < summary["lost_steps"] <= 1500  # where it is long away, all from the start: it had no checkpoint yet
    assert summary["parity_max_abs_error"] <= 1e-5
    told = [look.problem for look in looks if "does not answer" in look.problem]
    assert told[0].startswith(f"{recovery['what']} does not answer; training goes on without it")
    before, after = next(pair for pair in pairwise(looks) if pair[1].recoveries > pair[0].recoveries)
    print("while it was away:", after.examples - before.examples, "of", recovery)
    assert after.examples - before.examples > 100  # a look waits for all shards: learned while one was away


@pytest.mark.timeout(280)
@pytest.mark.long
def test_available_the_only_shard_dies_when_all_is_learned(
    settings: Callable[..., OnlineSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody goes on that could tell what it lacks: all return to the last checkpoint, and nothing is lost."""
    its = settings("available-end", "recovery.mode=available", "store.shards=1", "workers=1")
    save_the_end = Watch._save_the_end
    killed: list[int] = []

    def killed_before(watch: Watch, saver: Saver) -> None:
        if not killed:
            killed.append(kill("RowShard"))
        save_the_end(watch, saver)

    monkeypatch.setattr(Watch, "_save_the_end", killed_before)
    summary, checkpoint = run(its)
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    assert (checkpoint.about["finished"], summary["lost_steps"], len(killed)) == (True, 0, 1)
    assert sum(number for _, number in checkpoint.position.values()) == 1500


@pytest.mark.timeout(280)
@pytest.mark.long
def test_what_can_not_be_saved_in_the_end_is_published(settings: Callable[..., OnlineSettings], tmp_path: Path) -> None:
    its = settings("unsaved", "batch.max_examples=1", f"checkpoint.folder={tmp_path / 'checkpoints'}")

    def take_away() -> None:
        (tmp_path / "checkpoints").rename(tmp_path / "kept")
        (tmp_path / "checkpoints").write_text("no folder")

    with train_online(its, print, Once(200, take_away)) as trained:
        summary = summarize(trained)
    assert (summary["examples"], summary["examples_lost"], summary["finished"]) == (1500, 0, True)
    assert summary["parity_max_abs_error"] <= 1e-5
    assert any("could not be written" in line for line in shortfalls(summary))
    assert 0 < load_checkpoint(tmp_path / "kept").step < 1500


@pytest.mark.long
@pytest.mark.timeout(280)
def test_available_a_lost_worker_is_replaced(settings: Callable[..., OnlineSettings]) -> None:
    its = settings("available-worker", "recovery.mode=available", "workers=2")
    summary, checkpoint = run(its, Once(500, lambda: kill("WorkerActor")))
    assert checkpoint.position.keys() == {"0", "1", "2", "3"}
    assert sum(at[1] for at in checkpoint.position.values()) == 1500  # every example was learned
    assert summary["examples_duplicated"] == 0
    (recovery,) = summary["recoveries"]
    assert recovery["what"].startswith("worker")


@pytest.mark.timeout(280)
def test_workers_come_and_go(settings: Callable[..., OnlineSettings]) -> None:
    its = settings("elastic", "workers=1", "batch.max_examples=2")  # long enough to be asked twice

    def ask(workers: int) -> Callable[[], None]:
        return lambda: (its.folder / WORKERS_FILE).write_text(f"{workers}\n") and None

    summary, _ = run(its, Once(300, ask(3)), Once(800, ask(2)))
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    assert {path.name.split("-after-")[0] for path in (its.folder / "predictions").iterdir()} == {
        "worker-0000",
        "worker-0001",
        "worker-0002",
    }
    check_partitions(ScaleSettings(run=its.folder, workers=4))
    with pytest.raises(ConfigError, match="workers=5 for 4 partitions; each worker needs at least one"):
        check_partitions(ScaleSettings(run=its.folder, workers=5))


@pytest.mark.timeout(280)
def test_resumed_on_other_numbers_of_shards_workers_and_joiners(settings: Callable[..., OnlineSettings]) -> None:
    its = settings("patience", "max_minutes=0.01", "batch.max_examples=2")
    with train_online(its, print, lambda _: None) as trained:
        first = summarize(trained)
    assert not first["finished"] and first["examples"] < 1500
    again = settings("patience", f"resume={its.folder}", "store.shards=3", "workers=2", "joiners=2")
    said: list[str] = []
    with train_online(again, said.append, lambda _: None) as trained:
        summary = summarize(trained)
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    assert summary["parity_max_abs_error"] <= 1e-5
    assert any("going on with" in line for line in said)
    learned = read_predictions(its.folder / "predictions").num_rows
    oldest = sorted(Path(its.checkpoints).iterdir())[0].name
    with pytest.raises(ConfigError, match="trained with another table"):
        other = settings("patience", f"resume={its.folder}", f"resume_from={oldest}", "table=unified")
        with train_online(other, print, lambda _: None):
            pass
    assert read_predictions(its.folder / "predictions").num_rows == learned  # nothing of it was dropped


def test_nothing_to_resume_is_said(settings: Callable[..., OnlineSettings], tmp_path: Path) -> None:
    its = settings("nothing", f"resume={tmp_path}")
    with pytest.raises(ConfigError, match="nothing to resume: no checkpoint in"), train_online(its, print, print):
        pass


@pytest.mark.long
@pytest.mark.timeout(250)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(
    settings: Callable[..., OnlineSettings],
) -> None:
    its = settings("damaged", "checkpoint.keep=3", "max_minutes=0.05")
    with train_online(its, print, lambda _: None):
        pass
    folders = sorted(Path(its.checkpoints).iterdir())
    assert len(folders) >= 2
    victim = next(path for path in sorted(folders[-1].iterdir()) if path.suffix == ".parquet")
    victim.write_bytes(victim.read_bytes()[:-100])
    again = settings("damaged", f"resume={its.folder}")
    refused = rf"{victim.name} .*resume_from={folders[-2].name}"
    with pytest.raises(ServiceError, match=refused), train_online(again, print, print):
        pass
    offered = settings("damaged", f"resume={its.folder}", f"resume_from={folders[-2].name}")
    with train_online(offered, print, lambda _: None) as trained:
        summary = summarize(trained)
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)


@pytest.mark.timeout(250)
def test_a_full_disk_does_not_stop_the_run(settings: Callable[..., OnlineSettings], tmp_path: Path) -> None:
    """The folder of checkpoints becomes a file: nothing can be written, the run says so and goes on."""
    its = settings("no-room", "batch.max_examples=4", f"checkpoint.folder={tmp_path / 'checkpoints'}")
    problems: set[str] = set()

    def take_away() -> None:
        (tmp_path / "checkpoints").rename(tmp_path / "kept")
        (tmp_path / "checkpoints").write_text("no folder")

    def give_back() -> None:
        (tmp_path / "checkpoints").unlink()
        (tmp_path / "kept").rename(tmp_path / "checkpoints")

    disturbances = [Once(200, take_away), Once(1300, give_back)]

    def watch(progress: Progress) -> None:
        problems.add(progress.problem)
        for disturbance in disturbances:
            disturbance(progress)

    with train_online(its, print, watch) as trained:
        summary = summarize(trained)
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    assert any(problem.startswith("no checkpoint: ") for problem in problems)
    assert load_checkpoint(tmp_path / "checkpoints").step == 1500 // 4


@needs_kafka
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_driver_is_resumed_by_the_same_command(
    undisturbed: Callable[[int], tuple[OnlineSettings, Checkpoint]],
    films: Path,
    tmp_path: Path,
) -> None:
    """SIGKILL of the job, Kafka, Redis and Ray with it; the replay into Kafka goes on where it was cut off."""
    command = [
        sys.executable, "-m", "jobs.online", f"data.folder={films}", "source=kafka", "workers=2",
        "replay.events_per_second=400", *QUICK,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([*command, "hydra.run.dir=run"], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        checkpoints = tmp_path / "run" / "checkpoints"
        deadline = time.monotonic() + 240
        while not (checkpoints / "checkpoint-000004" / "manifest.json").exists():
            assert job.poll() is None and time.monotonic() < deadline, "the run made no four checkpoints"
            time.sleep(0.05)
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    done = subprocess.run(
        [*command, "resume=run"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"going on with {tmp_path / 'run'} from checkpoint-" in " ".join(done.stdout.split())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (1500, 0, 0)
    assert summary["parity_max_abs_error"] <= 1e-5
    assert_same_rows(load_checkpoint(checkpoints).rows, undisturbed(2)[1].rows)
