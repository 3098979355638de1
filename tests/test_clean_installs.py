"""What a user installs: the pinned requirements with the wheel, and the wheel with ``[serving]`` alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from composing import composed
from films import write_films

from recsys.embedded.redis import EmbeddedRedis
from recsys.features.state import FeatureState
from recsys.models.recommender import Recommender
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.runtime.settings import build_blueprint
from recsys.sync.run import publish_run
from recsys.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]


def sh(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run to the end, without this process's own Python settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280
    )


def checked(*command: object, cwd: Path) -> str:
    done = sh(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    checked(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("recsys-*.whl"))


def environment(folder: Path, *wanted: object) -> Path:
    """A fresh virtual environment with what is wanted; returns its Python."""
    python = folder / "venv" / "bin" / "python"
    checked(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    checked(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *wanted, cwd=folder)
    return python


@pytest.mark.timeout(600)
def test_requirements_and_wheel_run_the_jobs(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path, "-r", ROOT / "requirements.txt")
    checked(
        sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", python, wheel, cwd=tmp_path
    )
    write_films(tmp_path / "data" / "ml100k", num_users=9, num_items=12, num_impressions=400)
    assert "test AUC" in checked(python, "-m", "jobs.train", "epochs=1", "batch.max_examples=64", cwd=tmp_path)
    assert "kind: collisionless" in checked(python, "-m", "jobs.online", "--cfg", "job", cwd=tmp_path)
    run = next((tmp_path / "runs").iterdir())
    assert "published" in checked(python, "-m", "jobs.publish", f"run={run}", cwd=tmp_path)
    assert "Film" in checked(python, "-m", "jobs.rank", "user=1", "k=3", cwd=tmp_path)
    where = checked(python, "-c", "import recsys.embedded; print(recsys.embedded.__path__[0])", cwd=tmp_path)
    assert (Path(where.strip()) / "pom.xml").is_file()
    refused = sh(python, "-c", "import recsys.collection", cwd=tmp_path)
    assert refused.returncode == 1
    assert "pip install --no-deps torchrec==1.8.0" in refused.stderr.strip().splitlines()[-1]


@pytest.mark.timeout(600)
def test_serving_extra_looks_up_and_ranks_with_torch_redis_and_numpy_alone(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path, f"recsys[serving] @ {wheel.as_uri()}", "-c", ROOT / "requirements.txt")
    for package in ("ray", "kafka", "hydra", "torchrec", "pyarrow", "msgspec", "numba"):
        assert sh(python, "-c", f"import {package}", cwd=tmp_path).returncode == 1, package
    blueprint = build_blueprint(composed("online", "table=unified"))
    recommender = Recommender(blueprint)
    store = LocalRows(recommender.groups)
    Trainer(recommender, store).start()
    state = FeatureState()
    state.put_facts("item", 3, 0, {"title": "Film 3", "genres": ["Drama"], "year": 1990})
    with EmbeddedRedis(tmp_path / "redis") as redis:
        publish_run(
            redis.url,
            Layout(model="recsys", run="r1"),
            blueprint=blueprint,
            store=store,
            features=[state],
            time_ms=880_000_000_000,
            about={},
        )
        use = (
            "from recsys.serving import Lookup, Ranker\n"
            f"print(Lookup.connect({redis.url!r}).embeddings('item', [3, 4]).shape)\n"
            f"print(Ranker.connect({redis.url!r}).rank(user=7).titles)\n"
        )
        assert checked(python, "-W", "error", "-c", use, cwd=tmp_path) == "(2, 16)\n['Film 3']\n"
