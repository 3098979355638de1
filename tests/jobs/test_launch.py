"""The door of the jobs: help that says what a job does, and an end in order at Ctrl-C and SIGTERM."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(
    path.stem
    for path in (ROOT / "jobs").glob("*.py")
    if path.stem not in ("__init__", "launch", "refusing", "sections")
)
SLOW = ("torch", "ray", "numpy", "pyarrow", "kafka", "redis", "uvicorn", "matplotlib")


def started(
    job: str, *overrides: str, cwd: Path, python: Sequence[str] = (), path: Sequence[Path] = ()
) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(place) for place in (*path, ROOT))}
    environment.pop("HYDRA_FULL_ERROR", None)
    return subprocess.Popen(
        [sys.executable, *python, "-m", f"jobs.{job}", *overrides],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_the_job_does_and_imports_nothing_slow(job: str, tmp_path: Path) -> None:
    """``-X importtime`` lists what was imported."""
    with started(job, "--help", cwd=tmp_path, python=["-X", "importtime"]) as process:
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    doc = sys.modules.get(f"jobs.{job}") or __import__(f"jobs.{job}", fromlist=["main"])
    header = (doc.__doc__ or "").replace("``", "`").strip()
    assert said.startswith(header)
    assert f"jobs.{job}" in header
    assert "launch" not in said
    imported = {line.rpartition("|")[2].strip() for line in errors.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert imported.isdisjoint(SLOW)


def test_hydra_calls_the_job_by_its_name(tmp_path: Path) -> None:
    with started("online", "--cfg", "hydra", "--resolve", cwd=tmp_path) as process:
        said, _ = process.communicate(timeout=60)
    assert "\n    name: online\n" in said


@pytest.mark.parametrize("module", ["hydra", "torch"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_import_is_one_line(
    module: str, number: signal.Signals, films: Path, tmp_path: Path
) -> None:
    """The module is stood in for by one that sends the signal as it is imported."""
    place = tmp_path / "path"
    place.mkdir()
    (place / f"{module}.py").write_text(f"import os, time\nos.kill(os.getpid(), {number})\ntime.sleep(60)\n")
    with started("online", "source=parquet", f"data.folder={films}", cwd=tmp_path, path=[place]) as process:
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, said, errors) == (128 + number, "", "online: interrupted\n")


def test_ctrl_c_as_soon_as_the_door_is_there(tmp_path: Path) -> None:
    with started("online", cwd=tmp_path, python=["-X", "importtime"]) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith("| jobs.launch"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    errors = [line for line in rest.splitlines() if not line.startswith("import time:")]
    assert errors == ["online: interrupted"]
    assert process.returncode in (130, -signal.SIGINT)  # to a shell both are 130


@pytest.mark.timeout(300)
@pytest.mark.long
def test_sigterm_finishes_an_online_run_in_order(films: Path, tmp_path: Path) -> None:
    """As Ctrl-C does (tested with the jobs)."""
    process = started("online", "source=parquet", f"data.folder={films}", "hydra.run.dir=run", cwd=tmp_path)
    with process:
        assert process.stdout is not None
        for line in process.stdout:  # the first progress line: everything is up
            if "events/s" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["examples_duplicated"] == 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_second_ctrl_c_is_no_traceback(films: Path, tmp_path: Path) -> None:
    process = started("online", "source=parquet", f"data.folder={films}", "hydra.run.dir=run", cwd=tmp_path)
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "events/s" in line:
                break
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 130)  # 0 where both came before the first was looked at
    assert "Traceback" not in errors
