"""Every configuration composes, what it describes can be built, and a wrong value in any of its keys is one line."""

import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import CONF, composed

from jobs.cluster import ClusterSettings
from jobs.compare import CompareSettings
from jobs.evaluate import EvaluateSettings
from jobs.export import ExportSettings
from jobs.lookup import LookupSettings
from jobs.prepare import PrepareSettings
from jobs.publish import PublishSettings
from jobs.rank import RankSettings
from jobs.replay import ReplaySettings
from jobs.scale import ScaleSettings
from jobs.serve import ServeSettings
from jobs.session import SessionSettings
from jobs.session_online import SessionOnlineSettings
from jobs.submit import SubmitSettings
from jobs.tune import TuneSettings
from recsys.batches.join import JoinConfig
from recsys.errors import ConfigError
from recsys.fields import build
from recsys.models import MODELS
from recsys.models.retrieval import RETRIEVERS
from recsys.models.sessions import LEARNED, SIMPLE
from recsys.runtime.retrieving import RetrieveSettings
from recsys.runtime.sections import TrainConfig
from recsys.runtime.settings import build_blueprint, build_layout, build_settings
from recsys.tables import TABLES
from recsys.tables.bucket_files import write_map
from recsys.tables.bucket_map import BucketMap, Buckets
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.id_files import write_id_map
from recsys.tables.kept_map import KeptIds, KeptMap
from recsys.tables.sparse_map import SparseIds, SparseMap
from recsys.tabular.prepared import sized

ROOT = Path(__file__).resolve().parents[1]
NOT_JOBS = ("__init__", "launch", "refusing", "sections")
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem not in NOT_JOBS)
NEEDED = {
    "cluster": ["gamma=200"],
    "evaluate": ["examples=data/x/test.parquet"],
    "export": ["run=runs/x"],
    "publish": ["run=runs/x"],
    "rank": ["user=7"],
    "replay": ["kafka.bootstrap_servers=localhost:9092"],
    "scale": ["run=runs/x", "workers=2"],
    "session_online": ["kafka.bootstrap_servers=localhost:9092", "redis.url=redis://localhost:6379/0"],
    "submit": ["job=online"],
}
SETTINGS = {
    "cluster": ClusterSettings,
    "compare": CompareSettings,
    "evaluate": EvaluateSettings,
    "export": ExportSettings,
    "lookup": LookupSettings,
    "prepare": PrepareSettings,
    "publish": PublishSettings,
    "rank": RankSettings,
    "replay": ReplaySettings,
    "scale": ScaleSettings,
    "serve": ServeSettings,
    "session": SessionSettings,
    "session_online": SessionOnlineSettings,
    "submit": SubmitSettings,
    "train": TrainConfig,
    "tune": TuneSettings,
}


@pytest.fixture(scope="module", autouse=True)
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder in which the map that conf/table names is there, for every data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("maps"))
        yield


def write_map_of(data: str) -> None:
    """The maps for a data set, where conf/table has them."""
    tables = {"user": Buckets.of(np.arange(40) % 5, 5), "item": Buckets.of(np.arange(40) % 5, 5)}
    made = BucketMap(method="random", data=data, fingerprint="", seed=0, tables=tables)
    write_map(Path("maps/graphhash.safetensors"), made)
    kept = KeptMap(method="optembed", data=data, tables={"user": KeptIds.of(np.arange(40) % 5 > 0, 4)})
    write_id_map(Path("maps/kept.safetensors"), kept)
    codes = CodeMap(method="dpq", data=data, tables={"user": IdCodes.of(np.arange(80).reshape(40, 2) % 5, 5)})
    write_id_map(Path("maps/codes.safetensors"), codes)
    weights = SparseMap(
        method="deeplight", data=data, tables={"user": SparseIds.of(np.arange(640).reshape(40, 16) % 3 > 0)}
    )
    write_id_map(Path("maps/weights.safetensors"), weights)


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
    assert options("retriever") == sorted(RETRIEVERS)
    assert options("session_model") == sorted({**SIMPLE, **LEARNED})


@cache
def once(job: str, *overrides: str) -> dict[str, Any]:
    """A configuration that many cases share."""
    return composed(job, *overrides)


def has_history(features: list[dict[str, Any]]) -> bool:
    """Whether a bag reads the table of an id."""
    of_ids = {feature.get("table", feature["name"]) for feature in features if feature["kind"] == "id"}
    return any(feature.get("table") in of_ids for feature in features if feature["kind"] in ("bag", "sequence"))


@pytest.mark.parametrize(
    ("table", "model", "data"),
    [
        *itertools.product(options("table"), ["deepfm"], EVENTS),
        *itertools.product(["full"], options("model"), EVENTS),  # with every table: tests/models
    ],
)
def test_every_table_and_model_builds_with_every_data_set(table: str, model: str, data: str) -> None:
    write_map_of(data)
    chosen = {"table": table, "model": model, "data": data}
    config = {
        **once("online"),
        **{group: once("train", f"{group}={option}")[group] for group, option in chosen.items()},
    }
    if model == "din" and not has_history(config["data"]["features"]):
        with pytest.raises(ConfigError, match="needs a history"):
            build_blueprint(config)
        return
    blueprint = build_blueprint(config)
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
        build_settings({name: value for name, value in config.items() if name not in DEMO_SHOWS}, Path("runs/x"))
        return
    if job == "retrieve":
        RetrieveSettings.of(config)
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


def job_of(experiment: str) -> str:
    """Whose experiment it is: of the command that its first lines give."""
    said = (CONF / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    return said.partition("python -m jobs.")[2].split()[0]


OPTIONS = [  # what a choice changes: its own keys
    ("train", [f"{group}={option}"]) for group in ("table", "model", "optimizer") for option in options(group)
]
VARIANTS = [
    *((job, NEEDED.get(job, [])) for job in JOBS),
    *OPTIONS,
    ("online", ["source=parquet"]),
    ("train", ["store=ray"]),
    ("retrieve", ["retriever=lightgcn"]),
    *(
        ("cluster", ["like=maps/other", f"interactions={option}"])
        for option in options("interactions")
        if option != "archive"
    ),
    ("cluster", ["num_buckets=9", "interactions=archive", "interactions.folder=runs/x/archive"]),
    ("train", ["source=archive", "source.folder=runs/x/archive"]),
    *((job_of(experiment), [f"experiment={experiment}"]) for experiment in options("experiment")),
    *(("prepare", [f"data={data}"]) for data in EXAMPLES),
    ("prepare", ["data=adult", "+data.examples.files={train: a.csv, valid: b.csv, test: c.csv}"]),
]
DEMO_SHOWS = ("user", "k", "page", "page_port")  # what jobs.demo takes for itself
TEXT_OR_NUMBER = {"rank.user", "demo.user", *(f"{job}.ids[0]" for job in ["lookup"])}  # ids are either


@pytest.mark.parametrize(
    ("job", "overrides"), VARIANTS, ids=lambda part: part if isinstance(part, str) else ",".join(part)
)
def test_a_wrong_value_in_any_key_is_one_line_that_names_it(job: str, overrides: list[str]) -> None:
    write_map_of("ml100k")
    config = once(job, *overrides)
    seen = set()
    group = overrides[0].partition("=")[0] if (job, overrides) in OPTIONS else None
    for at in leaves(config):
        if group is not None and at[0] != group:
            continue
        key = key_of(at)
        # one element of a long list stands for all
        if (same := "".join("[]" if isinstance(part, int) else f".{part}" for part in at)) in seen:
            continue
        seen.add(same)
        if job == "demo" and key in DEMO_SHOWS:
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
