"""Runs that are killed at random, many of them: ``make chaos``, or ``python tests/runtime/chaos.py --seeds 100``.

A seed decides everything but the moment that the system gives each kill: recovery mode, workers, shards, who dies, when
and how often; checkpoints are made all the time, so that many deaths fall into one. A killed driver is started again
with ``resume=``. One line a seed in ``runs/chaos.jsonl``; seeds that have one already are passed over.

In ``exact`` mode the final rows must be those of a run to which nothing happened, bit for bit, and every example
counted once. In ``available`` mode every example is learned, and what was lost is no more than came since a checkpoint.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "runtime")]

from disturbed import assert_same_rows  # noqa: E402
from films import write_films  # noqa: E402
from killing import actors  # noqa: E402

from recsys.training.checkpoint import load_checkpoint  # noqa: E402

NUM_EXAMPLES, BATCH = 2000, 16
VICTIMS = ("RowShard", "RowShard", "WorkerActor", "WorkerActor", "JoinerActor", "PublisherActor", "driver")
AVAILABLE_VICTIMS = ("RowShard", "WorkerActor")


@dataclass
class Result:
    """One line."""

    seed: int
    mode: str
    workers: int
    shards: int
    killed: list[str] = field(default_factory=list)
    ok: bool = False
    seconds: float = 0.0
    recovery_seconds: list[float] = field(default_factory=list)
    lost_steps: int = 0
    error: str = ""


def disturbed(seed: int, data: Path, place: Path, expected: dict[int, Path]) -> Result:
    """One run with its kills, judged."""
    draw = random.Random(seed)
    mode = "exact" if draw.random() < 0.7 else "available"
    result = Result(seed, mode, workers=draw.choice((1, 2)), shards=draw.choice((1, 2, 3)))
    folder, started_at = place / f"seed-{seed}", time.monotonic()
    kills = [(draw.uniform(0, 2.5), draw.choice(VICTIMS if mode == "exact" else AVAILABLE_VICTIMS))
             for _ in range(draw.choice((1, 1, 2, 3)))]  # fmt: skip
    try:
        run_with_kills(result, kills, command(data, folder, result), folder, draw)
        judge(result, folder, expected)
        result.ok = True
    except Exception as error:
        result.error = f"{type(error).__name__}: {error}"[:500]
    result.seconds = time.monotonic() - started_at
    return result


def command(data: Path, folder: Path, result: Result) -> list[str]:
    """The job of a seed."""
    return [
        sys.executable, "-m", "jobs.online", f"data.folder={data}", "source=parquet", f"hydra.run.dir={folder}",
        f"batch.max_examples={BATCH}", f"replay.limit={NUM_EXAMPLES}", "checkpoint.every_seconds=0.2",
        "checkpoint.keep=3", "checkpoint.full_every=4", "serving.sync_seconds=0.3", f"recovery.mode={result.mode}",
        f"workers={result.workers}", f"store.shards={result.shards}",
    ]  # fmt: skip


def run_with_kills(
    result: Result, kills: list[tuple[float, str]], arguments: list[str], folder: Path, draw: random.Random
) -> None:
    """Run to the end; the driver is started again where it was killed."""
    log = folder.with_suffix(".log")
    while True:
        resume = [f"resume={folder}"] if (folder / "checkpoints").is_dir() and result.killed else []
        with log.open("ab") as output:
            job = subprocess.Popen([*arguments, *resume], cwd=folder.parent, stdout=output, stderr=output,
                                   env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)  # fmt: skip
        killer = threading.Thread(target=kill_on_the_way, args=(result, kills, job, folder, draw))
        killer.start()
        status = job.wait(timeout=240)
        killer.join()
        if status == 0:
            return
        if status != -signal.SIGKILL:
            raise AssertionError(f"exit status {status}: {log.read_text()[-400:]}")


def kill_on_the_way(
    result: Result, kills: list[tuple[float, str]], job: "subprocess.Popen[bytes]", folder: Path, draw: random.Random
) -> None:
    """Kill one after the other, each some time after training has begun, or begun again."""
    while job.poll() is None and not any(folder.glob("checkpoints/*/manifest.json")):
        time.sleep(0.01)
    while kills and job.poll() is None:
        after, victim = kills.pop(0)
        time.sleep(after)
        if job.poll() is not None:
            return
        if victim == "driver":
            result.killed.append(victim)
            job.send_signal(signal.SIGKILL)
            return
        found = actors(victim, job.pid)
        if found:
            try:
                os.kill(draw.choice(found), signal.SIGKILL)
                result.killed.append(victim)
            except ProcessLookupError:
                continue


def judge(result: Result, folder: Path, expected: dict[int, Path]) -> None:
    """What must hold of a run, whatever was done to it."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    checkpoint = load_checkpoint(folder / "checkpoints")
    result.recovery_seconds = [recovery["seconds"] for recovery in summary["recoveries"]]
    result.lost_steps = summary["lost_steps"]
    learned = sum(at[1] for at in checkpoint.position.values())
    assert learned == NUM_EXAMPLES, f"{learned} examples learned"
    assert summary["examples_duplicated"] == 0, summary["examples_duplicated"]
    assert summary["parity_max_abs_error"] <= 1e-5, summary["parity_max_abs_error"]
    if result.mode == "exact":
        assert summary["examples_lost"] == 0, summary["examples_lost"]
        assert_same_rows(checkpoint.rows, load_checkpoint(expected[result.workers] / "checkpoints").rows)
    else:
        assert result.lost_steps <= NUM_EXAMPLES / BATCH, result.lost_steps


def undisturbed(data: Path, place: Path) -> dict[int, Path]:
    """By number of workers: a run to which nothing happens."""
    folders = {}
    for workers in (1, 2):
        folders[workers] = place / f"undisturbed-{workers}"
        run = Result(-workers, "exact", workers, shards=2)
        run_with_kills(run, [], command(data, folders[workers], run), folders[workers], random.Random(0))
    return folders


def main() -> int:
    """Every seed that has no line yet; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/chaos.jsonl"))
    given = parser.parse_args()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    known = {json.loads(line)["seed"] for line in lines}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        place = Path(name)
        write_films(place / "ml100k", num_users=40, num_items=60, num_impressions=NUM_EXAMPLES)
        expected = undisturbed(place / "ml100k", place)
        for seed in range(given.first, given.first + given.seeds):
            if seed in known:
                continue
            result = disturbed(seed, place / "ml100k", place, expected)
            failed += not result.ok
            line = json.dumps(asdict(result))
            with given.results.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)
    print(f"{given.seeds - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
