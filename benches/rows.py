"""How fast the row stores are, against their peers: ``make bench-rows``, or ``python -m benches.rows``.

8 M rows of 16 float32, 1 M ids a call, uniform and by Zipf's law, two threads, every peer in the same run. Leaves
``rows.json`` and ``rows.html`` in ``runs/bench``. ``--quick`` is a small form that says nothing about speed.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from benches import row_measures as measures
from benches.draws import LAWS, Law, consecutive
from benches.neighbours import Neighbours
from benches.peers import Fbgemm, Gather, Ours, ZeroCollision, row_group
from benches.result import Result, Target, Values, against, left_out, write_results
from benches.row_measures import RATE, Call, Sizes, count
from benches.running import Told, command_line, run
from benches.tfra import Tfra
from recsys.errors import DependencyError
from recsys.fields import build
from recsys.hashing import Floats

TITLE = "Row stores"
PULL: dict[Law, Target] = {"uniform": Target(value=0.55), "zipf": Target(value=0.40)}
STEP: dict[str, dict[Law, Target]] = {
    Fbgemm.name: {"uniform": Target(value=4), "zipf": Target(value=1.5)},
    ZeroCollision.name: {"uniform": Target(value=5), "zipf": Target(value=5)},
    Tfra.name: {"uniform": Target(value=8), "zipf": Target(value=8)},
}
INSERT = Target(value=8)
LONGEST_CALL = Target(value=50, bound="most")
EXTRA_BYTES = Target(value=24, bound="most")
QUICK = {"rows": 40_000, "ids": 10_000, "calls": 2}
_QUIET_CORES = 0.1


@dataclass
class Contenders:
    """Who pulls, who trains and how fast each filled its table, by name; who could not be had, and why."""

    pull: dict[str, Call] = field(default_factory=dict)
    step: dict[str, Call] = field(default_factory=dict)
    filled: dict[str, Values] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def measure(sizes: Sizes, folder: Path, tfra: Path | None, *, quick: bool, told: Told) -> list[Result]:
    """All measures; writes what they found into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    start, neighbours = time.perf_counter(), Neighbours()
    results, versions = _against_peers(sizes, folder, tfra, told)
    told("inserting new ids")
    inserted = measures.inserting(sizes, INSERT)
    told("growing")
    grown, longest_plot = measures.growing(sizes, LONGEST_CALL, INSERT)
    told("counting bytes")
    extra, bytes_plot = measures.extra_bytes(sizes, EXTRA_BYTES)
    swept, sweep_plots = measures.sweep(sizes, told)
    told("first use of the kernels")
    first = measures.first_use(with_empty_cache=not quick)
    others = neighbours.cores_used() or 0.0
    quiet = others <= _QUIET_CORES
    results = [replace(line, quiet=quiet) for line in (*results, inserted, *grown, *extra, *swept, *first)]
    about = _about(sizes, versions) | {"cores used by others": others, "seconds": time.perf_counter() - start}
    paths = write_results(folder, "rows", TITLE, results, about, [*sweep_plots, longest_plot, bytes_plot])
    told(f"written: {', '.join(map(str, paths))}")
    if not quiet:
        told(f"other programs used {others:.2f} cores meanwhile: no target is met or missed; run it again, alone")
    return results


def _against_peers(sizes: Sizes, folder: Path, tfra: Path | None, told: Told) -> tuple[list[Result], dict[str, str]]:
    """Pull, training step and reads of memory at one size; when it is over, the tables leave memory."""
    gradients_NW = sizes.gradients()
    with ExitStack() as stack:
        told(f"{Ours.name}: filling {count(sizes.rows)} rows")
        ours = Ours(row_group(sizes.width), gradients_NW, sizes.threads)
        found = Contenders(pull={ours.name: ours.pull}, step={ours.name: ours.step})
        found.filled[ours.name] = np.array(ours.fill(sizes.rows))
        _add_torch(found, sizes, gradients_NW, told)
        _add_tfra(found, sizes, stack, lambda: _tfra(tfra, folder, gradients_NW, sizes), told)
        results = [result for law in LAWS for result in _by_law(found, sizes, law, told)]
        told("random reads of memory")
        results.append(measures.bytes_moved(sizes, ours))
    if Tfra.name in found.filled:
        ours_R, tfra_R = (sizes.ids / found.filled[name] / 1e6 for name in (Ours.name, Tfra.name))
        results.append(against(f"inserting new ids, {count(sizes.ids)} a push", RATE, ours_R, Tfra.name, tfra_R))
    return results, found.versions


def _by_law(found: Contenders, sizes: Sizes, law: Law, told: Told) -> Iterator[Result]:
    told(f"pull and training step, {LAWS[law]}")
    batches = sizes.draw(law)
    pull, step = f"pull, {LAWS[law]}", f"training step, {LAWS[law]}"
    yield from measures.compared(pull, found.pull, batches, sizes.calls, {Gather.name: PULL[law]})
    targets = {peer: by_law[law] for peer, by_law in STEP.items()}
    trained = measures.rates(found.step, batches, sizes.calls)
    for peer, target in targets.items():
        if peer in trained:
            yield against(step, RATE, trained[Ours.name], peer, trained[peer], target)
        else:
            yield left_out(step, RATE, trained[Ours.name], peer, found.missing[peer], target)


def _add_torch(found: Contenders, sizes: Sizes, gradients_NW: Floats, told: Told) -> None:
    """The gather; fbgemm and TorchRec where they are installed."""
    for huge_pages in (False, True):
        gather = Gather(sizes.rows, sizes.ids, sizes.width, huge_pages=huge_pages)
        found.pull[gather.peer] = gather.pull
    num_steps = len(LAWS) * (sizes.calls + 1)
    starts: dict[str, Callable[[], Fbgemm | ZeroCollision]] = {
        Fbgemm.name: lambda: Fbgemm(sizes.rows, gradients_NW),
        ZeroCollision.name: lambda: ZeroCollision(sizes.rows, gradients_NW, num_steps),
    }
    for name, start in starts.items():
        told(f"{name}: {count(sizes.rows)} rows")
        try:
            found.step[name] = start().step
        except ImportError as error:
            found.missing[name] = f"{error}; make install"


def _tfra(python: Path | None, folder: Path, gradients_NW: Floats, sizes: Sizes) -> Tfra:
    if python is None:
        raise DependencyError("give --tfra PYTHON, of an environment that has it")
    return Tfra(python, folder, gradients_NW, sizes.threads)


def _add_tfra(found: Contenders, sizes: Sizes, stack: ExitStack, start: Callable[[], Tfra], told: Told) -> None:
    """TFRA where it has an environment, its table filled."""
    told(f"{Tfra.name}: filling {count(sizes.rows)} rows")
    try:
        tfra = stack.enter_context(start())
        filled = [tfra.insert(batch) for batch in consecutive(0, sizes.rows, sizes.ids)]
    except DependencyError as error:
        found.missing[Tfra.name] = str(error)
        return
    found.filled[tfra.name] = np.array(filled)
    found.pull[tfra.name], found.step[tfra.name] = tfra.pull, tfra.step
    found.versions["TFRA"] = tfra.version


def _about(sizes: Sizes, versions: dict[str, str]) -> dict[str, object]:
    """What was measured, and on what."""
    packages = ("numpy", "numba", "torch", "fbgemm-gpu-cpu", "torchrec")
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "sizes": asdict(sizes),
        "versions": {package: _version(package) for package in packages} | versions,
    }


def _processor() -> str:
    """The processor's name, where Linux says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, help="rows of the table")
    parser.add_argument("--ids", type=int, help="ids a call")
    parser.add_argument("--calls", type=int, help="how often each call is timed")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tfra", type=Path, metavar="PYTHON", help="a Python that has tensorflow-recommenders-addons")
    given = parser.parse_args(arguments)
    chosen = {name: getattr(given, name) for name in ("rows", "ids", "calls", "threads")}

    def measured(told: Told) -> list[Result]:
        sizes = build(Sizes, (QUICK if given.quick else {}) | {k: v for k, v in chosen.items() if v is not None}, "")
        with _torch_threads(sizes.threads):
            return measure(sizes, given.folder, given.tfra, quick=given.quick, told=told)

    return run(TITLE, measured)


if __name__ == "__main__":
    sys.exit(main())
