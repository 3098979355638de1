"""Every configuration composes, what it describes can be built, and a wrong value in any of its keys is one line."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from composing import CONF, composed

from jobs.lookup import LookupSettings
from jobs.prepare import PrepareSettings
from jobs.publish import PublishSettings
from jobs.rank import RankSettings
from jobs.replay import ReplaySettings
from jobs.scale import ScaleSettings
from jobs.serve import ServeSettings
from jobs.submit import SubmitSettings
from recsys.batches.join import JoinConfig
from recsys.errors import ConfigError
from recsys.fields import build
from recsys.models import MODELS
from recsys.runtime.sections import TrainConfig
from recsys.runtime.settings import build_blueprint, build_layout, build_settings
from recsys.tables import TABLES
from recsys.tabular.prepared import sized

ROOT = Path(__file__).resolve().parents[1]
NOT_JOBS = ("__init__", "launch", "refusing", "sections")
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem not in NOT_JOBS)
NEEDED = {
    "publish": ["run=runs/x"],
    "rank": ["user=7"],
    "replay": ["kafka.bootstrap_servers=localhost:9092"],
    "scale": ["run=runs/x", "workers=2"],
    "submit": ["job=online"],
}
SETTINGS = {
    "lookup": LookupSettings,
    "prepare": PrepareSettings,
    "publish": PublishSettings,
    "rank": RankSettings,
    "replay": ReplaySettings,
    "scale": ScaleSettings,
    "serve": ServeSettings,
    "submit": SubmitSettings,
    "train": TrainConfig,
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


EXAMPLES = [data for data in options("data") if "examples" in composed("prepare", f"data={data}")["data"]]
EVENTS = [data for data in options("data") if data not in EXAMPLES]


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_config_that_composes(job: str) -> None:
    check(job, composed(job, *NEEDED.get(job, [])))


def test_every_table_kind_and_model_has_a_config_and_the_other_way_round() -> None:
    assert options("table") == sorted(TABLES)
    assert options("model") == sorted(MODELS)


@pytest.mark.parametrize(
    ("table", "model", "data"), list(itertools.product(options("table"), options("model"), EVENTS))
)
def test_every_table_builds_with_every_model_and_data_set(table: str, model: str, data: str) -> None:
    blueprint = build_blueprint(composed("online", f"table={table}", f"model={model}", f"data={data}"))
    assert blueprint.table["kind"] == table
    assert blueprint.model["kind"] == model


@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("job", ["online", "demo", "train"])
def test_every_optimizer_builds(job: str, optimizer: str) -> None:
    assert build_blueprint(composed(job, f"optimizer={optimizer}")).optimizer["kind"]


@pytest.mark.parametrize("source", [source for source in options("source") if source != "archive"])
def test_every_source_makes_settings(source: str, tmp_path: Path) -> None:
    settings = build_settings(composed("online", f"source={source}"), tmp_path / "run")
    assert settings.source == source
    assert settings.topology.num_partitions == 4
    assert settings.join.window_ms == 30_000
    assert settings.times.idle_seconds == 30.0  # a replay; live it is a second
    live = build_settings(composed("online", "kafka.bootstrap_servers=localhost:9092"), tmp_path / "run")
    assert (live.replay.enabled, live.times.idle_seconds) == (False, 1.0)


def test_train_and_online_join_alike() -> None:
    train, online = (build(JoinConfig, composed(job)["join"], "join") for job in ("train", "online"))
    assert train == online


@pytest.mark.parametrize("data", EXAMPLES)
def test_sets_of_plain_examples_build(data: str) -> None:
    """With the sizes that preparing finds, where none are declared; a stream is no place for them."""
    config = composed("train", f"data={data}")
    features = build(TrainConfig, config, "").data.features
    found = sized(features, {feature.name: {"num_ids": 7} for feature in features})
    blueprint = build_blueprint(config, found)
    assert len(blueprint.features) == len(features) > 9
    with pytest.raises(ConfigError, match=f"data set '{data}' is of plain examples"):
        build_settings(composed("online", f"data={data}"), Path("runs/x"))


@pytest.mark.parametrize("data", EVENTS)
def test_data_configs_declare_features(data: str) -> None:
    said = build(PrepareSettings, composed("prepare", f"data={data}"), "").data
    assert {"user", "item", "liked", "genres", "hour"} <= {feature.name for feature in said.features}


# --- a wrong value in any key


def check(job: str, config: Mapping[str, Any]) -> None:
    """What the job does with its configuration before anything else."""
    if job in ("online", "demo"):
        build_settings({name: value for name, value in config.items() if name not in ("user", "k")}, Path("runs/x"))
        return
    build(SETTINGS[job], config, "")
    if job == "train":
        build_blueprint(config)
    if job == "publish":
        build_layout(config["serving"], Path("runs/x"))


def leaves(config: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value that is neither a mapping nor a list; an empty one is a value too."""
    if isinstance(config, dict | list) and config:
        for name, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from leaves(value, (*at, name))
    else:
        yield at


def replaced(config: Any, at: tuple[str | int, ...], value: Any) -> Any:
    """The configuration with another value at a path; what is not on the path is shared."""
    if not at:
        return value
    copied = config.copy()
    copied[at[0]] = replaced(config[at[0]], at[1:], value)
    return copied


def key_of(at: tuple[str | int, ...]) -> str:
    """A path as an error names it: data.features[0].name."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def wrong_values(old: Any) -> list[Any]:
    """Values that can not stand in a key: never a list; and a word or a bool where there is a number now."""
    if isinstance(old, bool):
        return [[[1]], "wrong", 1]
    if isinstance(old, int | float):
        return [[[1]], "wrong", True, float("nan"), -1]
    return [[[1]]]


VARIANTS = [
    *((job, NEEDED.get(job, [])) for job in JOBS),
    *(("train", [f"{group}={option}"]) for group in ("table", "model", "optimizer") for option in options(group)),
    ("online", ["source=parquet"]),
    ("train", ["store=ray"]),
    ("train", ["source=archive", "source.folder=runs/x/archive"]),
    *(("train", [f"experiment={experiment}"]) for experiment in options("experiment")),
    *(("prepare", [f"data={data}"]) for data in EXAMPLES),
    ("prepare", ["data=adult", "+data.examples.files={train: a.csv, valid: b.csv, test: c.csv}"]),
]
TEXT_OR_NUMBER = {"rank.user", "demo.user", *(f"{job}.ids[0]" for job in ["lookup"])}  # ids are either


@pytest.mark.parametrize(
    ("job", "overrides"), VARIANTS, ids=lambda part: part if isinstance(part, str) else ",".join(part)
)
def test_a_wrong_value_in_any_key_is_one_line_that_names_it(job: str, overrides: list[str]) -> None:
    config = composed(job, *overrides)
    seen = set()
    for at in leaves(config):
        key = key_of(at)
        # one element of a long list stands for all
        if (same := "".join("[]" if isinstance(part, int) else f".{part}" for part in at)) in seen:
            continue
        seen.add(same)
        if job == "demo" and key in ("user", "k"):
            continue  # told apart in test_mistakes: the job takes them out first
        old = config
        for part in at:
            old = old[part]  # type: ignore[index]
        for wrong in wrong_values(old):
            if f"{job}.{key}" in TEXT_OR_NUMBER and wrong in ("wrong", -1):
                continue
            with pytest.raises(ConfigError) as caught:
                check(job, replaced(config, at, wrong))
                pytest.fail(f"{job}: {key}={wrong!r} was taken")
            said = str(caught.value)
            assert key in said, (key, wrong, said)
            assert len(said.splitlines()) == 1, said
