"""Every configuration composes, and what it describes can be built."""

import itertools
from pathlib import Path

import pytest
from composing import CONF, composed

from recsys.batches.join import build_join_config
from recsys.features.declarations import build_features
from recsys.models import MODELS
from recsys.runtime.settings import build_blueprint, build_settings
from recsys.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem not in ("__init__", "launch"))
NEEDED = {"publish": ["run=runs/x"], "rank": ["user=7"], "replay": ["kafka.bootstrap_servers=localhost:9092"]}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_config_that_composes(job: str) -> None:
    assert composed(job, *NEEDED.get(job, []))


def test_every_table_kind_and_model_has_a_config_and_the_other_way_round() -> None:
    assert options("table") == sorted(TABLES)
    assert options("model") == sorted(MODELS)


@pytest.mark.parametrize(
    ("table", "model", "data"), list(itertools.product(options("table"), options("model"), options("data")))
)
def test_every_table_builds_with_every_model_and_data_set(table: str, model: str, data: str) -> None:
    blueprint = build_blueprint(composed("online", f"table={table}", f"model={model}", f"data={data}"))
    assert blueprint.table["kind"] == table
    assert blueprint.model["kind"] == model


@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("job", ["online", "demo", "train"])
def test_every_optimizer_builds(job: str, optimizer: str) -> None:
    assert build_blueprint(composed(job, f"optimizer={optimizer}")).optimizer["kind"]


@pytest.mark.parametrize("source", options("source"))
def test_every_source_makes_settings(source: str, tmp_path: Path) -> None:
    settings = build_settings(composed("online", f"source={source}"), tmp_path / "run")
    assert settings.source == source
    assert settings.topology.num_partitions == 4
    assert settings.join.window_ms == 30_000
    assert settings.times.idle_seconds == 30.0  # a replay; live it is a second
    live = build_settings(composed("online", "kafka.bootstrap_servers=localhost:9092"), tmp_path / "run")
    assert (live.replay.enabled, live.times.idle_seconds) == (False, 1.0)


def test_train_and_online_join_alike() -> None:
    assert build_join_config(composed("train")["join"]) == build_join_config(composed("online")["join"])


@pytest.mark.parametrize("data", options("data"))
def test_data_configs_declare_features(data: str) -> None:
    names = [feature.name for feature in build_features(composed("prepare", f"data={data}")["data"]["features"])]
    assert {"user", "item", "liked", "genres", "hour"} <= set(names)
