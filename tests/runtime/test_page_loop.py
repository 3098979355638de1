"""A click on the page goes through Kafka, joiner, worker and publisher, and comes back as another list."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import CHROMIUM, chromium
from composing import composed
from page_visits import browse, by_program

from recsys.embedded.kafka import kafka_unavailable
from recsys.runtime.online import train_online
from recsys.runtime.page import page_beside
from recsys.runtime.settings import build_settings
from recsys.runtime.summary import summarize
from recsys.runtime.watching import Progress
from recsys.training.predictions import read_predictions

needs_kafka = pytest.mark.skipif(kafka_unavailable() is not None, reason=str(kafka_unavailable()))
SKIP = "+join.actions.skip={window_seconds: 30, final: true, label: 0.0, history: false}"


class Visit:
    """Somebody who visits the page in a thread of their own; the run ends when they have gone."""

    def __init__(self, visit: Callable[[str], None]) -> None:
        self.said: list[str] = []
        self.error: BaseException | None = None
        self._visit, self._left = visit, False
        self._thread = threading.Thread(target=self._go)

    def say(self, line: str) -> None:
        self.said.append(line)
        if "the loop, live:" in line:
            self._thread.start()

    def on_progress(self, progress: Progress) -> None:
        if self._thread.ident is not None and not self._thread.is_alive() and not self._left:
            self._left = True  # the run is looked at once more at its end
            raise KeyboardInterrupt

    def _go(self) -> None:
        (address,) = re.findall(r"http://[^ ]*/", " ".join(self.said))
        try:
            self._visit(address)
        except BaseException as error:
            self.error = error


@needs_kafka
@pytest.mark.timeout(280)
@pytest.mark.usefixtures("ray_is_up")
def test_clicks_come_back_as_another_list(films: Path, tmp_path: Path) -> None:
    """By program always; by Chromium, where there is one."""
    config = composed(
        "online", "batch.max_examples=32", "source=kafka", "serving.sync_seconds=0.5", "replay.repeat=true",
        "replay.events_per_second=100", SKIP,
    )  # fmt: skip
    config["data"]["folder"] = str(films)
    settings = build_settings(config, tmp_path / "run")

    def visit(address: str) -> None:
        by_program(address)
        if CHROMIUM is not None:
            with chromium(tmp_path / "profile") as tab:
                browse(tab, address)

    visitor = Visit(visit)
    beside = page_beside(settings, None, visitor.say, opens=False)
    with train_online(settings, visitor.say, visitor.on_progress, beside) as trained:
        summary = summarize(trained)
    if visitor.error is not None:
        raise visitor.error
    predictions = read_predictions(tmp_path / "run" / "predictions")
    columns = (predictions.column(name).to_pylist() for name in ("request_id", "label"))
    labels = [label for request_id, label in zip(*columns, strict=True) if request_id.startswith("page-")]
    assert sorted(labels) == ([1.0] if CHROMIUM is None else [0.0, 1.0, 1.0])  # two likes, one skip
    assert (summary["examples_lost"], summary["examples_duplicated"], summary["dead_letters"]) == (None, 0, 0)
    assert not summary["finished"] and summary["late_events"] == 0
    if CHROMIUM is None:
        pytest.skip("no chromium: make test-page installs it where it may; the rest has passed")
