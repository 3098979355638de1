"""Runs of jobs.train, or of jobs.retrieve, side by side: trained in the very same way, then measured.

What a run is told, and what it learns from, is its key: a run whose line is there is not run again. One that fails is a
line too, and is tried again.
"""

import hashlib
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from recsys.datasets.interaction_files import data_folder
from recsys.errors import DataError, RecsysError
from recsys.runtime.measuring import measured
from recsys.training.comparison import Line, add_line, read_lines
from recsys.training.recorded import key_of
from recsys.training.report import format_value

_MANIFESTS = ("examples.json", "manifest.json")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run to be: ``line`` says what it is, ``config`` is jobs.train's or jobs.retrieve's, composed and resolved."""

    line: Line
    config: Mapping[str, Any]


def planned(config: Mapping[str, Any], **told: Any) -> Run:
    """The run of a configuration, ``told`` being the fields of its line; DataError where its data is not there."""
    said = {"config": config, "data": _data_digest(config)}
    return Run(line=Line(key=key_of(said), **told), config=config)


def _data_digest(config: Mapping[str, Any]) -> str:
    """What tells one data set from another: its manifest; of published files, they themselves."""
    of = config["data"] if "interactions" not in config else config["interactions"]
    folder = Path(of["folder"])
    if of.get("train") is not None:
        folder = (data_folder() or Path()) / folder
        paths = [folder / of[part] for part in ("train", "valid", "test") if of[part] is not None]
    else:
        paths = [folder / manifest for manifest in _MANIFESTS] + sorted(folder.glob("hour=*/*.parquet"))
    found = [path for path in paths if path.is_file()]
    if not found:
        remedy = "mend RECSYS_DATA" if of.get("train") is not None else f"run: python -m jobs.prepare data={of['name']}"
        raise DataError(f"{folder} holds no data set {of['name']!r}; {remedy}")
    digest = hashlib.sha256()
    for path in found:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compare(
    runs: Sequence[Run],
    *,
    folder: Path,
    results: Path,
    parallel: int,
    ray_address: str | None,
    say: Callable[[str], None],
) -> list[Line]:
    """Run what has no line in ``results`` yet, or one that failed; all its lines afterwards.

    ``parallel`` runs at once are tasks of a Ray; one after the other they are run in this process.
    """
    lines = read_lines(results)
    there = {line.key for line in lines if line.error is None}
    left = [run for run in {run.line.key: run for run in runs}.values() if run.line.key not in there]
    say(f"runs: {len(runs)}, there already: {len(runs) - len(left)}{_foreseen(left, lines)}")
    finished = _in_turn(left, folder) if parallel == 1 else _on_ray(left, folder, parallel, ray_address)
    start = time.monotonic()
    for number, line in enumerate(finished, 1):
        lines = add_line(results, line)
        seconds_left = (time.monotonic() - start) / number * (len(left) - number)
        say(f"{number} of {len(left)}: {_told(line)}; {format_value('seconds', round(seconds_left))} to the end")
    return lines


def _foreseen(left: Sequence[Run], lines: Sequence[Line]) -> str:
    """What the runs that are left will take, by those of their kind that are there."""
    sections = {run.line.section for run in left}
    seconds = [line.cpu_seconds for line in lines if line.cpu_seconds is not None and line.section in sections]
    if not left or not seconds:
        return ""
    return f"; the others take about {len(left) * float(np.mean(seconds)) / 3600:.2f} h of one core"


def _told(line: Line) -> str:
    asked = "" if line.compression is None else f" {line.compression:g}×"
    found = line.error
    if line.quality is not None:
        measure = "AUC" if line.recall is None else "recall@20"
        found = f"{measure} {line.quality:.4f}, {line.serving_bytes:,} bytes, {line.cpu_seconds:.0f} s"
    return f"{line.model} {line.table}{asked} seed {line.seed}: {found}"


# --- one run


def _in_turn(runs: Sequence[Run], folder: Path) -> Iterator[Line]:
    for run in runs:
        yield run_one(run, folder / run.line.key)


def _on_ray(runs: Sequence[Run], folder: Path, parallel: int, address: str | None) -> Iterator[Line]:
    """``parallel`` tasks at once; folders are shared with the nodes of a cluster. A task that died is a failed run."""
    import ray

    from recsys.runtime.cluster import ray_session

    with ray_session(address):
        task = ray.remote(num_cpus=1, max_retries=0)(_run_there)
        waiting: list[Run] = list(runs)
        under_way: dict[Any, Run] = {}
        while waiting or under_way:
            while waiting and len(under_way) < parallel:
                run = waiting.pop(0)
                under_way[task.remote(run, (folder / run.line.key).absolute(), Path.cwd())] = run
            (ended,), _ = ray.wait(list(under_way), num_returns=1)
            run = under_way.pop(ended)
            try:
                yield ray.get(ended)
            except ray.exceptions.RayError as error:
                yield replace(run.line, error=" ".join(str(error).split())[:300])


def _run_there(run: Run, folder: Path, place: Path) -> Line:
    """A run in another process, which finds data and maps where this one does."""
    os.chdir(place)
    torch.set_num_threads(1)
    return run_one(run, folder)


def run_one(run: Run, folder: Path) -> Line:
    """Train in ``folder``, anew where something was left there, and measure; what a mistake or a defect says is kept.

    Weights are removed afterwards; the configuration is what makes them again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        try:
            return measured(run.line, run.config, folder, Console(file=log, width=120))
        except RecsysError as error:
            return replace(run.line, error=str(error))
        except Exception as error:
            log.write(traceback.format_exc())
            return replace(run.line, error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        finally:
            for left in (*folder.rglob("checkpoints"), *folder.rglob("best"), folder / "events"):
                shutil.rmtree(left, ignore_errors=True)
