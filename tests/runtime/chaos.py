"""Runs that are killed, many of them: ``make chaos``, or ``python tests/runtime/chaos.py --seeds 100``.

A seed decides recovery mode, workers, shards, who dies and at which moment: after so many examples, after a file of a
checkpoint, as actors come back. All runs share a Ray of two nodes on loopback, and the second node, too, is killed with
all that is on it. A killed driver is started again with ``resume=``. One line a seed in ``runs/chaos.jsonl`` says where
each kill fell; seeds that have one already are passed over.

In ``exact`` mode the final rows must be those of a run to which nothing happened, bit for bit, and every example
counted once. In ``available`` mode every example is learned, and the steps that shards have lost are no more than came
between the checkpoint before a kill and the first one after.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "runtime")]

from disturbed import assert_same_rows  # noqa: E402
from films import write_films  # noqa: E402
from kills import Kill, Killed, Killer  # noqa: E402

from recsys.runtime.loopback import LoopbackCluster  # noqa: E402
from recsys.training.checkpoint import load_checkpoint  # noqa: E402

NUM_EXAMPLES, BATCH = 2000, 4
ACTORS = ("RowShard", "WorkerActor")  # that alone return in ``available``
VICTIMS = {
    "exact": (*ACTORS, *ACTORS, "JoinerActor", "PublisherActor", "driver", "driver", "raylet"),
    "available": (*ACTORS, *ACTORS, "driver", "raylet"),
}
MOMENTS = ("training", "training", "checkpoint", "checkpoint", "checkpoint")
_JOB_SECONDS = 400.0  # of one start of the driver, on a busy machine
# A node that answers no more is given up in 2 s: Ray's own 15 s are for networks.
_HEALTH = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}


@dataclass
class Result:
    """One line."""

    seed: int
    mode: str
    workers: int
    shards: int
    killed: list[Killed] = field(default_factory=list)
    spared: int = 0  # kills whose moment did not come
    ok: bool = False
    seconds: float = 0.0
    recovery_seconds: list[float] = field(default_factory=list)
    lost_steps: int = 0
    error: str = ""


class Chaos:
    """A Ray, a data set and the runs to which nothing happens, in a folder: what seeds are tried on."""

    def __init__(self, place: Path, cluster: LoopbackCluster) -> None:
        self._place, self._cluster, self._data = place, cluster, place / "ml100k"
        self._undisturbed: dict[int, Path] = {}  # by number of workers
        write_films(self._data, num_users=40, num_items=60, num_impressions=NUM_EXAMPLES)

    def tried(self, seed: int) -> Result:
        """One run with its kills, judged."""
        result, kills, draw = planned(seed)
        return self.disturbed(result, kills, draw)

    def disturbed(self, result: Result, kills: Sequence[Kill], draw: random.Random) -> Result:
        """The run of a result with these kills, judged."""
        self._have_both_nodes(kills)
        folder, started_at = self._place / f"seed-{result.seed}", time.monotonic()
        try:
            expected = self._expected(result.workers) if result.mode == "exact" else None
            self._run(result, folder, kills, draw)
            judge(result, folder, expected)
            result.ok = True
        except Exception as error:
            result.error = f"{type(error).__name__}: {error}"[:500]
        result.seconds = round(time.monotonic() - started_at, 1)
        shutil.rmtree(folder, ignore_errors=True)
        return result

    def log(self, seed: int) -> str:
        """What the driver of a seed has said."""
        return (self._place / f"seed-{seed}.log").read_text()

    def _expected(self, workers: int) -> Path:
        """A run of so many workers to which nothing happens."""
        if workers not in self._undisturbed:
            folder = self._place / f"undisturbed-{workers}"
            self._run(Result(-workers, "exact", workers, shards=2), folder, [], random.Random(0))
            self._undisturbed[workers] = folder
        return self._undisturbed[workers]

    def _have_both_nodes(self, kills: Sequence[Kill]) -> None:
        """Who kills a node needs one beside the head."""
        alive = [node for node in self._cluster.nodes if node.process.poll() is None]
        if not alive and any(kill.victim == "raylet" for kill in kills):
            self._cluster.add_node({})

    def _run(self, result: Result, folder: Path, kills: Sequence[Kill], draw: random.Random) -> None:
        """To the end; the driver is started again where it was killed."""
        killer = Killer(self._cluster, folder / "checkpoints", kills, draw)
        result.killed = killer.killed
        log = folder.with_suffix(".log")
        while (status := self._one_start(result, folder, killer, log)) == -signal.SIGKILL:
            pass
        result.spared = len(killer.left)
        if status:
            raise AssertionError(f"exit status {status}: {log.read_text()[-400:]}")

    def _one_start(self, result: Result, folder: Path, killer: Killer, log: Path) -> int:
        """The exit status of the driver."""
        with log.open("ab") as output:
            job = subprocess.Popen(command(self._data, folder, result, self._cluster), cwd=self._place, stdout=output,
                                   stderr=output, env={**self._cluster.environment, "PYTHONPATH": str(ROOT)},
                                   start_new_session=True)  # fmt: skip
        following = threading.Thread(target=killer.follow, args=(job,))
        following.start()
        try:
            return job.wait(timeout=_JOB_SECONDS)
        finally:
            if job.poll() is None:
                job.send_signal(signal.SIGKILL)
                job.wait()
            following.join()


@contextmanager
def chaos_cluster() -> Iterator[tuple[Path, LoopbackCluster]]:
    """A folder for the time of the block, and a Ray of two nodes that ends with it."""
    os.environ.update(_HEALTH, PYTHONPATH=str(ROOT))  # for actors too: what is tried is what lies here
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        place = Path(name)
        with LoopbackCluster(place / "ray", [{}]) as cluster:
            yield place, cluster


@contextmanager
def chaos() -> Iterator[Chaos]:
    """What seeds are tried on, for the time of the block."""
    with chaos_cluster() as (place, cluster):
        yield Chaos(place, cluster)


def planned(seed: int) -> tuple[Result, list[Kill], random.Random]:
    """What a seed decides."""
    draw = random.Random(seed)
    mode = "exact" if draw.random() < 0.7 else "available"
    result = Result(seed, mode, workers=draw.choice((1, 2)), shards=draw.choice((1, 2, 3)))
    kills: list[Kill] = []
    for examples in sorted(draw.randrange(50, NUM_EXAMPLES // 2) for _ in range(draw.choice((1, 1, 2)))):
        kills.append(Kill(draw.choice(VICTIMS[mode]), draw.choice(MOMENTS), examples, at=draw.random()))
        if draw.random() < 0.35:
            sign = kills[-1].victim if mode == "available" and kills[-1].victim in ACTORS else "RowShard"
            victims = VICTIMS["exact"] if mode == "exact" else (sign, "driver")
            kills.append(Kill(draw.choice(victims), "recovery", at=draw.uniform(0, 2), sign=sign))
    return result, [*_with_one_node(kills)], draw


def _with_one_node(kills: Sequence[Kill]) -> Iterator[Kill]:
    """There is one node beside the head: who would kill it twice kills a shard."""
    gone = False
    for kill in kills:
        yield replace(kill, victim="RowShard") if gone and kill.victim == "raylet" else kill
        gone |= kill.victim == "raylet"


def command(data: Path, folder: Path, result: Result, cluster: LoopbackCluster) -> list[str]:
    """The job of a seed; the same one goes on where there is a checkpoint."""
    resume = [f"resume={folder}"] if any(folder.glob("checkpoints/*/manifest.json")) else []
    return [
        sys.executable, "-m", "jobs.online", f"data.folder={data}", "source=parquet", f"hydra.run.dir={folder}",
        f"batch.max_examples={BATCH}", f"replay.limit={NUM_EXAMPLES}", "checkpoint.every_seconds=0.2",
        "checkpoint.keep=3", "checkpoint.full_every=4", "serving.sync_seconds=0.5", f"recovery.mode={result.mode}",
        f"workers={result.workers}", f"store.shards={result.shards}", f"ray.address={cluster.address}", *resume,
    ]  # fmt: skip


def judge(result: Result, folder: Path, expected: Path | None) -> None:
    """What must hold of a run, whatever was done to it; in ``exact`` it ends as the ``expected`` one."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    checkpoint = load_checkpoint(folder / "checkpoints")
    result.recovery_seconds = [round(recovery["seconds"], 2) for recovery in summary["recoveries"]]
    result.lost_steps = summary["lost_steps"]
    learned = sum(at[1] for at in checkpoint.position.values())
    assert learned == NUM_EXAMPLES, f"{learned} examples learned"
    assert summary["examples_duplicated"] == 0, f"{summary['examples_duplicated']} examples duplicated"
    assert summary["parity_max_abs_error"] <= 1e-5, f"parity is off by {summary['parity_max_abs_error']}"
    if expected is not None:
        assert summary["examples_lost"] == 0, f"{summary['examples_lost']} examples lost"
        assert_same_rows(checkpoint.rows, load_checkpoint(expected / "checkpoints").rows)
    if result.mode == "available" and all(k.victim in ACTORS and k.where != "recovery" for k in result.killed):
        modes = {recovery["mode"] for recovery in summary["recoveries"]}
        assert modes <= {"available"}, "everything went back, where one actor alone should have returned"
    may_lose = sum(
        killed.shards * ((checkpoint.step if killed.step_back is None else killed.step_back) - killed.step)
        for killed in result.killed
    )
    assert result.lost_steps <= (may_lose if result.mode == "available" else 0), f"{result.lost_steps} of {may_lose}"


def main() -> int:
    """Every seed that has no line yet; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/chaos.jsonl"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # no job and no node is left behind
    given.results.parent.mkdir(parents=True, exist_ok=True)
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    known = {json.loads(line)["seed"] for line in lines}
    failed = 0
    with chaos() as runs:
        for seed in range(given.first, given.first + given.seeds):
            if seed in known:
                continue
            result = runs.tried(seed)
            failed += not result.ok
            line = json.dumps(asdict(result))
            with given.results.open("a") as file:
                file.write(line + "\n")
            if not result.ok:
                given.results.with_name(f"chaos-{seed}.log").write_text(runs.log(seed))
            print(line, flush=True)
    print(f"{given.seeds - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
