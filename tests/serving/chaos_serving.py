"""Serving under faults, by seed: ``make chaos-serving``; ``tests/serving/test_chaos_serving.py`` runs a few.

A trainer learns and publishes into a real Redis while somebody looks up all the time. Between publications, and in the
middle of them, Redis is killed, restarted empty or from a torn file, runs out of memory or stands still; the publisher
stops dead after any command, a second one writes what is old, a version beside breaks off, somebody switches to a run
of another release. At each moment a reader gets whole rows that once were, or a clear error; versions go back only
where Redis lost some; and afterwards a publication or two make all equal to the trainer again.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import redis
from chaos_reader import ITEMS, MODEL, Reader
from served_films import Films, films
from stopping_connection import CountedConnection, Stopped

from recsys.embedded.redis import EmbeddedRedis
from recsys.errors import DataError, ServiceError
from recsys.features.state import FeatureState
from recsys.rows.layout import Layout, pointer_key
from recsys.rows.local import LocalRows
from recsys.serving import Lookup, Ranker
from recsys.sync.publisher import Publisher
from recsys.sync.versions import remove_version

RUN = "r1"
STEPS = 7
WITHIN = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2}


class Chaos:
    """One seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw = np.random.default_rng(seed)
        self.folder = folder
        self.server = EmbeddedRedis(folder / "redis").ready()
        self.row_format = str(self.draw.choice(list(WITHIN)))
        layout = str(self.draw.choice(["fast", "compact"]))
        self.layout = Layout(model=MODEL, run=RUN, row_format=self.row_format, layout=layout, num_buckets=5)  # type: ignore[arg-type]
        self.trained: Films = films("collisionless", "deepfm", learned=False)
        self.trained.learn(20, seed)
        self.once: list[Any] = []  # rows of all items at each publication, as the layout holds them
        self.losses = 0
        self.faults: list[str] = []
        self.publisher = self.new_publisher()
        self.described()
        self.note()
        self.publisher.publish()
        self.publisher.switch()

    # --- the publisher

    def new_publisher(self, store: LocalRows | None = None) -> Publisher:
        """As after a restart: it knows nothing of what was published."""
        return self.publisher_of(store or self.trained.trainer.store, [self.trained.state], self.layout, "redis")

    def publisher_of(self, store: LocalRows, feeds: list[FeatureState], layout: Layout, consumer: str) -> Publisher:
        """Over connections that may be the end of it."""
        options: dict[str, Any] = {"socket_timeout": 2.0, "retry": None, "protocol": 2}
        pool = redis.ConnectionPool(
            connection_class=CountedConnection, host="127.0.0.1", port=self.server.port, **options
        )
        client = redis.Redis(connection_pool=pool)
        return Publisher(client, store, feeds, layout, time_ms=lambda: self.trained.time_ms, consumer=consumer)

    def described(self) -> None:
        """Told what it publishes, as a run is when it begins."""
        self.publisher.describe(self.trained.blueprint.to_json(), {})

    def note(self) -> None:
        """What a reader may find of the rows from now on."""
        rows = self.trained.trainer.store.pull({"item": np.array(ITEMS)})["item"]
        held = self.layout.encode_rows(rows, np.zeros(len(rows), np.int64))
        self.once.append(self.layout.decode_rows(held, rows.shape[1])[0])
        self.once.append(rows)  # of what is absent: its initial value

    def change(self) -> None:
        """Learn something, and lose some items."""
        self.trained.learn(8, int(self.draw.integers(2**30)))
        self.trained.trainer.store.delete({"item": self.draw.integers(0, 20, 2)})
        self.note()

    def publish(self) -> None:
        """Once, whatever comes of it."""
        with contextlib.suppress(ServiceError):
            self.publisher.publish()

    # --- faults: each leaves a Redis that runs

    def killed(self) -> None:
        """SIGKILL in the middle of a publication, or before it; what Redis had acknowledged is in its file."""
        self.kill_soon()
        self.publish()
        self.restart()

    def emptied(self) -> None:
        """Restarted without its file."""
        self.kill_soon()
        self.publish()
        self.restart(lambda: (self.folder / "redis" / "appendonly.aof").unlink())

    def torn(self) -> None:
        """Restarted from a file whose end is lost."""
        self.publish()
        self.kill()
        path = self.folder / "redis" / "appendonly.aof"
        self.restart(lambda: os.truncate(path, int(path.stat().st_size * self.draw.uniform(0.3, 1.0))))

    def full(self) -> None:
        """Out of memory, for a while."""
        with self.client() as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + int(self.draw.integers(0, 40_000)))
            self.publish()
            client.config_set("maxmemory", 0)

    def slow(self) -> None:
        """It stands still for longer than readers wait."""
        with self.client() as client:
            client.client_pause(int(self.draw.integers(50, 500)))
        self.publish()

    def stopped(self) -> None:
        """The publisher stops dead after any of its commands; its successor sends everything."""
        CountedConnection.left[0] = int(self.draw.integers(0, 14))
        try:
            self.publisher.publish()
        except Stopped:
            pass
        finally:
            CountedConnection.left[0] = 10**9
        self.succeed()

    def doubled(self) -> None:
        """A second publisher, of a store from before, thought dead."""
        late = LocalRows(list(self.trained.trainer.store.groups.values()))
        late.restore(self.trained.trainer.store.snapshot())
        other = self.new_publisher(late)
        self.change()
        both = [threading.Thread(target=self.publish), threading.Thread(target=other.publish)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()

    def beside(self) -> None:
        """A full publication beside breaks off: nobody sees it, and it can be removed."""
        store = self.trained.trainer.store
        other = self.publisher_of(store, [], Layout(model=MODEL, run="r2"), "beside")
        CountedConnection.left[0] = int(self.draw.integers(0, 12))
        try:
            other.describe(self.trained.blueprint.to_json(), {})
            other.publish(everything=True)
        except Stopped:
            pass
        finally:
            CountedConnection.left[0] = 10**9
        with self.client() as client:
            remove_version(client, MODEL, "r2")

    def upgraded(self) -> None:
        """Somebody serves a run of another release."""
        with self.client() as client:
            client.set(Layout(model=MODEL, run="old").meta_key, json.dumps({"blueprint": {}, "row_format": "float32"}))
            client.set(pointer_key(MODEL), "old")
            try:
                Lookup.connect(self.server.url, MODEL).embeddings("item", ITEMS)
            except DataError as error:
                assert "another release" in str(error)
            else:
                raise AssertionError("rows of another release were read")
            client.set(pointer_key(MODEL), RUN)
            client.delete(Layout(model=MODEL, run="old").meta_key)

    # --- means

    def client(self) -> redis.Redis:
        """Of who meddles."""
        return redis.Redis(port=self.server.port)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        os.kill(json.loads((self.folder / "redis" / "redis.json").read_text())["pid"], signal.SIGKILL)
        self.server.process.stop()

    def kill_soon(self) -> None:
        """Some milliseconds from now: in the midst of what comes next."""
        self.killer = threading.Timer(float(self.draw.uniform(0, 0.02)), self.kill)
        self.killer.start()

    def restart(self, before: Callable[[], object] = lambda: None) -> None:
        """The same folder and port again, after ``before``."""
        if (killer := getattr(self, "killer", None)) is not None:
            killer.join()
        self.losses += 1
        before()
        self.server = EmbeddedRedis(self.folder / "redis", port=self.server.port).ready()

    def succeed(self) -> None:
        """A new publisher in place of one that is dead: it sends all there is, above what may have been written."""
        self.trained.state.everything_changed()
        self.publisher = self.new_publisher()
        for _ in range(3):
            with contextlib.suppress(ServiceError):
                self.described()
                self.publisher.publish(everything=True)
                self.publisher.switch()
                return

    FAULTS = (killed, emptied, torn, full, slow, stopped, doubled, beside, upgraded)

    # --- the whole

    def run(self) -> dict[str, int]:
        """Faults and what was read; AssertionError for what must not be."""
        with self.server_closed(), Reader(self) as reader:
            for _ in range(STEPS):
                fault = self.FAULTS[int(self.draw.integers(len(self.FAULTS)))]
                self.change()
                self.faults.append(fault.__name__)
                fault(self)
            self.change()
            self.heal()
            reader.check()
        return {**Counter(self.faults), "answers": reader.num_answers, "errors": reader.num_errors}

    @contextlib.contextmanager
    def server_closed(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.server.stop()

    def heal(self) -> None:
        """Two publications make all equal to the trainer; deleted items are unknown by then."""
        for _ in range(2):
            self.publish()
        store, users = self.trained.trainer.store, self.trained.users[:3]
        found = Lookup.connect(self.server.url, MODEL).embed("item", ITEMS)
        rows = store.pull({"item": np.array(ITEMS)})["item"]
        exists = np.isin(ITEMS, store.snapshot().groups["item"].keys_U)
        np.testing.assert_array_equal(found.vectors_ND, np.where(exists[:, None], self.once[-2], rows))
        ranker = Ranker.connect(self.server.url, MODEL)
        for user in users:
            ranking = ranker.rank(user, self.trained.items, k=100)
            expected = self.trained.expected_scores(user, ranking.items, self.trained.time_ms)
            np.testing.assert_allclose(ranking.scores, expected, atol=WITHIN[self.row_format])


def run_seed(seed: int) -> dict[str, int]:
    """One seed in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        chaos = Chaos(seed, folder)
        try:
            return chaos.run()
        except Exception as error:
            error.add_note(f"after {' '.join(chaos.faults)}")
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Seeds one after the other, a line each; exit status 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    failed = []
    for seed in range(given.first, given.first + given.seeds):
        started = time.perf_counter()
        try:
            said: object = run_seed(seed)
        except Exception as error:
            failed.append(seed)
            said = f"FAILED {', '.join(error.__notes__)}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"seed {seed}: {said} ({time.perf_counter() - started:.1f} s)", flush=True)
    print(f"{given.seeds - len(failed)} of {given.seeds} seeds held; failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
