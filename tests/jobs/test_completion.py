"""Shell completion of the installed commands: Hydra's own, asked as bash asks it, and in a real bash."""

import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
JOBS = sorted(
    path.stem
    for path in (ROOT / "jobs").glob("*.py")
    if path.stem not in ("__init__", "launch", "refusing", "sections")
)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands, written as an installer writes them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, target in SCRIPTS.items():
        module, _, function = target.partition(":")
        command = folder / name
        command.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        command.chmod(0o755)
    return folder


def sh(script: str, commands: Path, folder: Path, **env: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{commands}:{os.environ['PATH']}", **env}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_every_job_is_a_command() -> None:
    assert {f"recsys-{job}": f"jobs.{job}:main" for job in JOBS} == SCRIPTS
    for target in SCRIPTS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("recsys-train table=u", {"table=unified"}),
        ("recsys-train tab", {"table=", "table."}),
        ("recsys-train batch.", {"batch.max_examples="}),
        ("recsys-train table=unified table.num_ch", {"table.num_chunks="}),
        ("recsys-online source=", {"source=archive", "source=auto", "source=kafka", "source=parquet"}),
        ("recsys-demo k", {"k=", "kafka."}),
        ("recsys-rank serving.", {"serving.model="}),
    ],
)
def test_the_command_answers_as_bash_asks(line: str, expected: set[str], commands: Path, tmp_path: Path) -> None:
    command = line.split()[0]
    answer = sh(f"{command} -sc query=bash", commands, tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert set(answer.split()) == expected
    assert list(tmp_path.iterdir()) == []  # asking leaves nothing behind


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_an_installed_command(commands: Path, tmp_path: Path) -> None:
    """What pressing Tab does: the function that ``complete -p`` names, called with the line as bash would."""
    line = "recsys-train table=u"
    script = f"""
        eval "$(recsys-train -sc install=bash)"
        complete -p recsys-train | grep -q -- '-F hydra_bash_completion'
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_WORDS=({line}) COMP_CWORD=1
        compopt() {{ :; }}
        hydra_bash_completion recsys-train table=u recsys-train 2>/dev/null
        echo "${{COMPREPLY[@]}}"
    """
    assert sh(script, commands, tmp_path).split() == ["table=unified"]
