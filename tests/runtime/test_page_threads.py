"""The page over a loop without Ray: replay, joiner, trainer and publisher in threads, with a real Kafka and Redis."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import broker
from browser import CHROMIUM, chromium
from composing import composed
from page_visits import browse, by_program

from recsys.batches.batches import BatchStream, TopicFeed
from recsys.embedded.kafka import kafka_unavailable
from recsys.embedded.redis import EmbeddedRedis
from recsys.events import Event
from recsys.models.recommender import Recommender
from recsys.rows.local import LocalRows
from recsys.runtime.events import KafkaEvents
from recsys.runtime.joiner import JoinerActor
from recsys.runtime.online import UnderWay
from recsys.runtime.page import page_beside
from recsys.runtime.replaying import ReplayActor
from recsys.runtime.settings import OnlineSettings, build_settings
from recsys.sync.progress import ProgressNote
from recsys.sync.publisher import Publisher
from recsys.training.trainer import Trainer

needs_kafka = pytest.mark.skipif(kafka_unavailable() is not None, reason=str(kafka_unavailable()))
SKIP = "+join.actions.skip={window_seconds: 30, final: true, label: 0.0, history: false}"


class Replay(ReplayActor):
    """One that ends, with its end markers, when it is told to."""

    stopping = False

    def _recorded(self) -> Iterator[tuple[str, Event]]:
        return itertools.takewhile(lambda _: not self.stopping, super()._recorded())


class Learning:
    """Learns the examples that the joiner sends, and publishes after every few batches, until it is stopped."""

    def __init__(self, settings: OnlineSettings, events: KafkaEvents, joiner: JoinerActor, redis_url: str) -> None:
        recommender = Recommender(settings.blueprint)
        self.labels: dict[str, float] = {}
        self._stopping, self._time_ms, self._num_learned = threading.Event(), -1, 0
        self._trainer = Trainer(recommender, LocalRows(recommender.groups))
        self._trainer.start()
        partitions = range(events.num_partitions)
        self._batches = BatchStream(
            TopicFeed(events.open_examples(partitions, dict.fromkeys(partitions, 0))),
            settings.blueprint.features,
            max_examples=32,
            start=dict.fromkeys(partitions, (0, 0)),
        )
        self._note = ProgressNote.connect(redis_url, settings.layout)
        self._publisher = Publisher.connect(
            redis_url, self._trainer.store, [joiner], settings.layout, time_ms=lambda: self._time_ms
        )
        self._publisher.describe(settings.blueprint.to_json(), {})

    def run(self) -> None:
        while not self._stopping.wait(0.2):
            for batch, _, rows in self._batches.poll(0.1):
                self._trainer.step(batch)
                self._num_learned += batch.num_examples
                self._time_ms = max(self._time_ms, int(batch.times_ms_B.max()))
                columns = (rows.column(name).to_pylist() for name in ("request_id", "label"))
                self.labels.update(zip(*columns, strict=True))
            if self._num_learned:
                self._publisher.publish()
                self._publisher.switch()
                look = {"auc": 0.5, "rows": 1, "delay_ms": 1.0, "publications": 1, "lag_events": 0}
                self._note.put({**look, "examples": self._num_learned})

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def in_threads(*runs: Callable[[], object]) -> Iterator[None]:
    threads = [threading.Thread(target=run, daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(30)


@needs_kafka
@pytest.mark.timeout(280)
def test_clicks_come_back_as_another_list(films: Path, tmp_path: Path) -> None:
    """By program always; by Chromium, where there is one."""
    config = composed("online", "source=kafka", SKIP)
    config["data"]["folder"] = str(films)
    settings = build_settings(config, tmp_path / "run")
    with broker(tmp_path / "kafka", 4) as events, EmbeddedRedis(tmp_path / "redis") as redis:
        replayer = Replay(films, "ml100k", events, 100.0, None, repeat=True)
        replayer.send_facts()
        joiner = JoinerActor(
            events, range(4), settings.join, settings.blueprint.features, settings.times, tmp_path / "letters",
            disk=tmp_path / "joiner",
        )  # fmt: skip
        learning = Learning(settings, events, joiner, redis.url)
        said: list[str] = []

        class Stream:
            act = staticmethod(replayer.act)

            def show(self, shown: object) -> None: ...

        beside = page_beside(settings, None, said.append, opens=False)
        with in_threads(replayer.send_events, joiner.run, learning.run):
            try:
                with beside(UnderWay(redis.url, Stream())):
                    address = said[0].split()[3]
                    by_program(address)
                    if CHROMIUM is not None:
                        with chromium(tmp_path / "profile") as tab:
                            browse(tab, address)
            finally:
                replayer.stopping = True
                learning.stop()
                joiner.stop()
        counts = joiner.status()["counts"]
    clicked = sorted(label for request_id, label in learning.labels.items() if request_id.startswith("page-"))
    assert clicked[:3] == ([1.0] if CHROMIUM is None else [0.0, 1.0, 1.0])  # two likes, one skip
    assert counts["late_events"] == counts["dead_letters"] == counts["actions_after_emission"] == 0
    if CHROMIUM is None:
        pytest.skip("no chromium: make test-page installs it where it may; the rest has passed")
