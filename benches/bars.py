"""Our models beside BARS's published runs on Frappe_x1: ``python -m benches.bars``.

Each run is ``python -m jobs.train experiment=bars_frappe`` with what BARS told that model, in a process of its own and
a folder of ``runs/bars``. Appends a line a run to ``docs/results/bars_frappe.jsonl``, and goes on where it stopped,
within a run from its last epoch; then writes ``docs/results/bars_frappe.md``. ``--models DeepFM FM --seeds 2021`` is a
part of it. A run takes one to five minutes of one core, a seed of all models about an hour.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benches.bars_page import write_page
from benches.bars_recipes import RECIPES
from benches.running import Told, add_line, command_line, or_error, read_lines
from recsys.errors import ConfigError, DataError

SEEDS = [2021, 2022, 2023, 2024, 2025]


def main() -> int:
    """Run what is not there yet; a page of everything that is."""
    parser = command_line(__doc__, quick=False)
    parser.set_defaults(folder=Path("docs/results"))
    parser.add_argument("--models", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/bars"))
    said = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    start = time.perf_counter()

    def told(what: str) -> None:
        print(f"{time.perf_counter() - start:8.1f} s  {what}", flush=True)

    def act() -> int:
        said.folder.mkdir(parents=True, exist_ok=True)
        lines = read_lines(said.folder / "bars_frappe.jsonl")
        for model, seed in planned(lines, said.models, said.seeds):
            lines.append(_line(model, seed, said.runs / f"{model}-{seed}", told))
            add_line(said.folder / "bars_frappe.jsonl", lines[-1])
            write_page(said.folder, lines)
        told(f"wrote {write_page(said.folder, lines)}")
        return 0

    try:
        return or_error(act)
    except KeyboardInterrupt as interrupt:
        told("stopped; the same command goes on")
        return 128 + int(interrupt.args[0] if interrupt.args else signal.SIGINT)


def planned(lines: Sequence[dict[str, Any]], models: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Models and seeds that have no line yet: all models of a seed before the next.

    >>> list(planned([{"model": "FM", "seed": 1}], ["FM", "LR"], [1, 2]))
    [('LR', 1), ('FM', 2), ('LR', 2)]
    """
    there = {(line["model"], line["seed"]) for line in lines}
    yield from ((model, seed) for seed in seeds for model in models if (model, seed) not in there)


def _line(model: str, seed: int, run: Path, told: Told) -> dict[str, Any]:
    """One run, from where it stands; what it found."""
    begun = time.perf_counter()
    if not (run / "summary.json").exists():
        _train(model, seed, run)
    summary = json.loads((run / "summary.json").read_text())
    test = summary["test"]
    told(f"{model}, seed {seed}: test AUC {test['auc']:.5f}, logloss {test['logloss']:.4f}")
    return {
        "model": model,
        "seed": seed,
        "auc": test["auc"],
        "logloss": test["logloss"],
        "gauc": test.get("gauc"),
        "valid_auc": summary["valid"][summary["best_at"]]["auc"],
        "best_epoch": summary["valid"][summary["best_at"]]["epoch"],
        "epochs": summary["valid"][-1]["epoch"],
        "steps_clipped": summary["steps_clipped"],
        "minutes": round((time.perf_counter() - begun) / 60, 1),
    }


def _train(model: str, seed: int, run: Path) -> None:
    """A process of jobs.train; DataError with its last words where it fails."""
    begun = any(run.glob("checkpoints/checkpoint-*/manifest.json"))
    where = f"resume={run}" if begun else f"hydra.run.dir={run}"
    command = ["-m", "jobs.train", "experiment=bars_frappe", *RECIPES[model].overrides(), f"seed={seed}", where]
    job = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = job.communicate()
    except KeyboardInterrupt:  # it leaves a checkpoint
        job.send_signal(signal.SIGTERM)
        job.communicate()
        raise
    if job.returncode == 2:
        raise ConfigError(output.strip().splitlines()[-1])
    if job.returncode != 0:
        raise DataError(f"{' '.join(command)}: status {job.returncode}\n{output[-2000:]}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
