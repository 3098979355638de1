"""The whole loop with real servers: Kafka, joiners, workers, parameter server, Redis, on a few thousand events."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import composed

from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import replay_events
from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.embedded.redis import EmbeddedRedis
from recsys.errors import ServiceError
from recsys.events import ACTIONS, FACTS, IMPRESSIONS
from recsys.runtime.cluster import metrics_targets
from recsys.runtime.events import KafkaEvents, ParquetEvents
from recsys.runtime.latest import open_redis
from recsys.runtime.online import train_online
from recsys.runtime.replaying import send_paced
from recsys.runtime.services import services
from recsys.runtime.settings import OnlineSettings, Topology, build_settings
from recsys.runtime.summary import shortfalls, summarize, write_run_report, write_summary
from recsys.runtime.watching import Progress
from recsys.serving import Lookup, Ranker
from recsys.streams.kafka_topics import create_topics
from recsys.streams.source import Partition
from recsys.streams.unread import Lag
from recsys.training.checkpoint import load_checkpoint
from recsys.training.predictions import read_predictions

needs_kafka = pytest.mark.skipif(kafka_unavailable() is not None, reason=str(kafka_unavailable()))
pytestmark = pytest.mark.usefixtures("ray_is_up")


@pytest.fixture
def settings(films: Path, tmp_path: Path) -> Callable[..., OnlineSettings]:
    def build(*overrides: str, name: str = "run") -> OnlineSettings:
        # what a busy machine is slow to send is waited for: where a partition counts as idle, the order is another
        config = composed("online", "batch.max_examples=32", "source.idle_seconds=200", *overrides)
        config["data"]["folder"] = str(films)
        return build_settings(config, tmp_path / name)

    return build


def trained_on(settings: OnlineSettings) -> tuple[dict[str, Any], list[Progress], list[str]]:
    """(summary, what the display was shown, what was said)."""
    said: list[str] = []
    shown: list[Progress] = []
    with train_online(settings, said.append, shown.append) as trained:
        summary = summarize(trained)
        write_summary(settings.folder / "summary.json", summary)
        write_run_report(settings.folder / "report.html", trained, summary)
    return summary, shown, said


@needs_kafka
@pytest.mark.timeout(280)
def test_kafka_and_files_give_the_same_learning_and_redis_the_same_scores(
    settings: Callable[..., OnlineSettings],
) -> None:
    through_kafka = settings("source=kafka", "joiners=2", "serving.sync_seconds=0.5", name="kafka")
    summary, shown, _ = trained_on(through_kafka)
    assert (summary["source"], summary["examples"]) == ("kafka", 3000)
    assert (summary["examples_lost"], summary["examples_duplicated"], summary["dead_letters"]) == (0, 0, 0)
    assert summary["auc_last_half"] > 0.9  # the pattern is there to be found
    assert summary["auc_last_half"] > summary["auc_baseline_last_half"] + 0.1
    assert summary["calibration"] == pytest.approx(1, abs=0.15)
    assert summary["parity_max_abs_error"] <= 1e-5
    assert summary["rows"] == sum(load_checkpoint_rows(through_kafka.folder).values())
    assert 0 < summary["sync_delay_ms_p50"] <= summary["sync_delay_ms_p99"]
    assert shown[-1].examples == 3000
    assert shown[-1].lag == dict.fromkeys(range(4), Lag(0, 0.0))
    assert summary["lag_events_max"] > 0 and 0 < summary["lag_seconds_max"] < 60
    [group] = json.loads((through_kafka.folder / "metrics_targets.json").read_text())
    assert group["targets"] == metrics_targets()
    assert json.loads((through_kafka.folder / "summary.json").read_text())["versions"]["ray"]
    page = (through_kafka.folder / "report.html").read_text()
    assert all(plot in page for plot in ("AUC over the stream", "AUC by slice", "Normalised entropy by slice"))
    slices = summary["slices"]
    assert slices["returning"]["num_examples"] > 2800 and slices["returning"]["course"]["num_examples"][-1] == 3000
    assert slices["returning"]["auc"] > 0.95  # of whom nothing was known, nothing could be predicted
    assert slices["new_user"]["auc"] < 0.7 and slices["new_item"]["auc"] < 0.7

    from_files = settings("source=parquet", "source.num_partitions=3", name="files")
    again, _, _ = trained_on(from_files)
    assert again["source"] == "files"
    assert again["auc_last_half"] == summary["auc_last_half"]
    assert again["logloss_last_half"] == summary["logloss_last_half"]
    assert_same_predictions(through_kafka.folder, from_files.folder)

    with open_redis(None, through_kafka.folder) as url:  # the run is over: its Redis is opened again
        assert Lookup.connect(url).embeddings("item", [1, 2]).shape == (2, 16)
        ranking = Ranker.connect(url).rank(user=7, candidates=range(1, 61), k=20)
        genres = [int(title.removeprefix("Film ")) % 3 for title in ranking.titles]
        assert genres.count(7 % 3) >= 18  # their own genre's twenty films come first


@pytest.mark.timeout(280)
def test_two_workers_lose_nothing_and_float16_rows_score_alike(settings: Callable[..., OnlineSettings]) -> None:
    summary, _, _ = trained_on(
        settings("source=parquet", "workers=2", "store.shards=3", "serving.row_format=float16", "table=unified")
    )
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (3000, 0, 0)
    assert summary["auc_last_half"] > 0.85
    assert 0 < summary["parity_max_abs_error"] <= 2e-3


@needs_kafka
@pytest.mark.timeout(280)
def test_somebody_elses_stream_with_malformed_events(
    settings: Callable[..., OnlineSettings], films: Path, tmp_path: Path
) -> None:
    """An external Kafka that others write to: bad events are set aside with their reason, the rest is learned."""
    with EmbeddedKafka(tmp_path / "external") as kafka:
        external = f"kafka.bootstrap_servers={kafka.bootstrap_servers}"
        patient = "source.idle_seconds=60"  # live a joiner that is a second late is gone on without: another order
        run = settings(external, "source=kafka", patient, name="external")
        events = KafkaEvents(bootstrap_servers=kafka.bootstrap_servers, num_partitions=4)
        create_topics(kafka.bootstrap_servers, events.topics)
        bad = [b"", b"{", b'{"request_id":"x"}', b"\xff\xfe", b'{"request_id":7,"user_id":1,"item_id":1,"time_ms":1}']
        with events.open_sink() as sink:
            for payload in bad:
                sink.send(Partition(IMPRESSIONS, 1), payload)
        prepared = open_prepared(films)
        send_paced(replay_events(prepared, 500), events, events_per_second=None, closes=(FACTS, IMPRESSIONS, ACTIONS))
        summary, _, _ = trained_on(run)
        again, _, _ = trained_on(settings(external, "source=kafka", "joiners=2", patient, name="again"))
        letters = [json.loads(line) for line in events.letters(range(4))]
    assert summary["examples"] == 500
    assert summary["examples_lost"] is None  # not our data: nothing to count against
    assert summary["examples_duplicated"] == 0
    # another run over the same topics joins the events anew, and does not read what the first one joined
    assert (again["examples"], again["examples_duplicated"]) == (500, 0)
    assert again["auc_last_half"] == summary["auc_last_half"]
    # each sets aside what it meets; the topic has one letter of it
    assert summary["dead_letters"] == again["dead_letters"] == len(bad)
    assert [letter["offset"] for letter in letters] == list(range(len(bad)))
    assert not list(run.folder.glob("dead-letters-*/*"))
    assert all(letter["topic"] == IMPRESSIONS and letter["partition"] == 1 and letter["reason"] for letter in letters)


@pytest.mark.timeout(280)
def test_what_sampling_leaves_out_is_counted_and_what_is_learned_stays_calibrated(
    settings: Callable[..., OnlineSettings],
) -> None:
    """A fifth of the negatives and half of the likes: two joiners account for every impression all the same."""
    sampling = ("sampling.negatives=0.2", "+sampling.actions.like=0.5")
    run = settings("source=parquet", "joiners=2", *sampling)
    summary, shown, _ = trained_on(run)
    assert summary["examples"] + summary["examples_sampled_out"] == 3000
    assert (summary["examples_lost"], summary["examples_duplicated"]) == (0, 0)
    assert summary["examples"] == pytest.approx(3000 * (2 / 3 * 0.2 + 1 / 3 * 0.5), rel=0.1)
    assert shown[-1].examples == summary["examples"]
    assert shown[-1].lag == dict.fromkeys(range(4), Lag(0, 0.0))
    predictions = read_predictions(run.folder / "predictions")
    labels, rates = (np.array(predictions.column(name)) for name in ("label", "keep_rate"))
    np.testing.assert_array_equal(rates, np.where(labels > 0, 0.5, 0.2).astype(np.float32))
    # uncorrected, the odds would be 2.5 times the true ones
    assert summary["calibration"] == pytest.approx(1, abs=0.25)


def test_auto_says_why_it_reads_files(
    settings: Callable[..., OnlineSettings], films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.runtime.services.kafka_unavailable", lambda: "neither KAFKA_HOME nor Maven is there")
    said: list[str] = []
    with services(settings("source=auto", "replay.limit=200"), open_prepared(films), said.append) as running:
        assert (running.source, type(running.events())) == ("files", ParquetEvents)
    assert said == [
        "source=auto: reading the same events from files, because neither KAFKA_HOME nor Maven is there",
    ]


@pytest.mark.long
def test_a_full_table_leaves_out_ids_that_it_can_not_hold(settings: Callable[..., OnlineSettings]) -> None:
    """New items come while a fixed table is trained: their ids are left out and counted, the rest is learned."""
    run = settings("source=parquet", "replay.limit=400", "table=full")
    features = tuple(
        dataclasses.replace(f, num_embeddings=10) if f.table_name == "item" else f for f in run.blueprint.features
    )
    run = dataclasses.replace(run, blueprint=dataclasses.replace(run.blueprint, features=features))
    summary, _, _ = trained_on(run)
    assert (summary["examples"], summary["examples_lost"]) == (400, 0)
    assert summary["unknown_ids"] > 300  # 51 of 60 items, shown, liked and in histories
    assert summary["parity_max_abs_error"] <= 1e-5


def test_without_redis_at_the_end_what_was_learned_is_saved(
    settings: Callable[..., OnlineSettings], tmp_path: Path
) -> None:
    redis = EmbeddedRedis(tmp_path / "elsewhere")
    run = settings("source=parquet", f"redis.url={redis.url}", "serving.sync_seconds=600")

    def stop_redis(progress: Progress) -> None:
        redis.stop()

    at_its_end = r"Redis did not take .* python -m jobs.publish run="
    with pytest.raises(ServiceError, match=at_its_end), train_online(run, print, stop_redis):
        raise AssertionError("nothing was published")
    checkpoint = load_checkpoint(run.folder / "checkpoints")
    assert checkpoint.about["finished"]
    assert len(checkpoint.rows.groups["item"].keys_U) == 60


@needs_kafka
@pytest.mark.timeout(200)
@pytest.mark.long
def test_without_kafka_half_way_what_was_learned_is_saved(
    settings: Callable[..., OnlineSettings], films: Path, tmp_path: Path
) -> None:
    """The joiner's own error ends the run, and says where the rest is."""
    with EmbeddedKafka(tmp_path / "external") as kafka:
        run = settings(
            f"kafka.bootstrap_servers={kafka.bootstrap_servers}", "source=kafka", "kafka.outage_seconds=6", name="cut"
        )
        events = KafkaEvents(bootstrap_servers=kafka.bootstrap_servers, num_partitions=4)
        create_topics(kafka.bootstrap_servers, events.topics)
        send_paced(replay_events(open_prepared(films), 2000), events, events_per_second=None, closes=())

        def stop_kafka(progress: Progress) -> None:
            if progress.examples:
                kafka.stop()

        its_own = rf"Kafka at .* what was learned is in {run.folder}: go on with resume="
        with pytest.raises(ServiceError, match=its_own), train_online(run, print, stop_kafka):
            raise AssertionError("the stream has no end")
    checkpoint = load_checkpoint(run.folder / "checkpoints")
    assert not checkpoint.about["finished"]
    assert len(checkpoint.rows.groups["user"].keys_U) > 0


def test_topology_shares_out_partitions() -> None:
    topology = Topology(num_partitions=5, num_joiners=2, num_workers=3)
    assert [topology.joiner_of(p) for p in range(5)] == [0, 1, 0, 1, 0]
    assert sorted({topology.worker_of(p) for p in range(5)}) == [0, 1, 2]


def load_checkpoint_rows(folder: Path) -> dict[str, int]:
    groups = load_checkpoint(folder / "checkpoints").rows.groups
    return {name: len(group.keys_U) for name, group in groups.items()}


def assert_same_predictions(one: Path, other: Path) -> None:
    first, second = (read_predictions(folder / "predictions") for folder in (one, other))
    assert first.column("request_id").to_pylist() == second.column("request_id").to_pylist()
    np.testing.assert_array_equal(first.column("probability").to_numpy(), second.column("probability").to_numpy())


def test_a_promise_not_kept_is_said() -> None:
    kept = {"row_format": "float32", "parity_max_abs_error": 1e-6, "examples_lost": 0, "examples_duplicated": None}
    assert shortfalls(kept) == []
    assert shortfalls({**kept, "parity_max_abs_error": float("nan")}) == []  # nothing could be compared
    assert shortfalls({**kept, "row_format": "float16", "parity_max_abs_error": 1e-3}) == []
    broken = {"row_format": "float32", "parity_max_abs_error": 0.002, "examples_lost": 3, "examples_duplicated": 1}
    assert shortfalls(broken) == [
        "scores from Redis are up to 0.002 off the trainer's own",
        "examples_lost is 3, counted by request id; it should be 0",
        "examples_duplicated is 1, counted by request id; it should be 0",
    ]
    replaced = {"mode": "available", "what": "worker 1"}
    assert shortfalls({**kept, "examples_lost": 3, "recoveries": [replaced]}) == [
        "3 examples have no prediction on record: a killed worker took some along"
    ]
