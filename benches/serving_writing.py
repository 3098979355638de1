"""Publications beside a bare pipelined MSET, lookups while one runs, and the bytes of a row in Redis."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benches.result import Result, Target, against
from benches.serving_data import rows_alone
from benches.serving_runs import FEAST, Served, seconds_of, some_ids
from recsys.embedded.redis import EmbeddedRedis
from recsys.embedded.redis_url import open_client
from recsys.rows.layout import Layout
from recsys.serving import Lookup
from recsys.sync.publisher import Publisher
from recsys.sync.versions import remove_version

OF_MSET, DISTURBED = Target(value=0.7), Target(value=2, bound="most")
FEAST_BYTES = 347  # a row of 16 float32 in Feast's layout, the least that was measured of it elsewhere
_KEYS_A_CALL = 100


def memory(served: Served) -> list[Result]:
    """Bytes a row of 16 numbers in a Redis of its own, by layout and format."""
    results = []
    store, keys = rows_alone(served.sizes.rows)
    for row_format, of_fast, of_feast in (("float32", 0.6, 0.3), ("float16", 0.38, 0.2), ("int8", None, None)):
        used: dict[str, float] = {}
        for layout in ("fast", "compact"):
            with EmbeddedRedis(Path(tempfile.mkdtemp(prefix="rows-"))) as redis:
                client = open_client(redis.url)
                client.config_set("appendonly", "no")
                before = client.info("memory")["used_memory"]
                run = Layout(model="films", run="2026-01-31_12-00-00", row_format=row_format, layout=layout)  # type: ignore[arg-type]
                consumer = f"{row_format}-{layout}"
                Publisher(client, store, [], run, time_ms=lambda: 1, consumer=consumer).publish()
                used[layout] = (client.info("memory")["used_memory"] - before) / len(keys)
        target = None if of_fast is None else Target(value=of_fast, bound="most")
        ours, fast = np.array([used["compact"]]), np.array([used["fast"]])
        results.append(against(f"compact {row_format}", "bytes a row", ours, "fast", fast, target))
        if of_feast is not None:
            results.append(
                against(
                    f"compact {row_format}",
                    "bytes a row",
                    ours,
                    f"{FEAST_BYTES} bytes, {FEAST}",
                    np.array([float(FEAST_BYTES)]),
                    Target(value=of_feast, bound="most"),
                )
            )
    return results


def publishing(served: Served) -> list[Result]:
    """A full publication beside what is served, and a bare pipelined MSET of the same keys and values."""
    client, film = served.client, served.films
    layout = Layout(model="published", run="first")
    rows = film.store.changes("bare").upserts["item"]
    keys, values = layout.row_keys("item", rows.keys_U), layout.encode_rows(rows.rows_UW, rows.sequences_U)

    def bare() -> None:
        for start in range(0, len(keys), 20_000):
            pipeline = client.pipeline(transaction=False)
            for at in range(start, min(start + 20_000, len(keys)), 500):
                pipeline.mset(dict(zip(keys[at : at + 500], values[at : at + 500], strict=True)))
            pipeline.execute()

    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for at in range(max(2, served.sizes.rounds // 2)):
        times["bare"].append(seconds_of(bare))
        remove_version(client, "published", "first")
        beside = film.publisher(client, Layout(model="published", run=f"round-{at}"))
        times["ours"].append(seconds_of(beside.publish))
        remove_version(client, "published", f"round-{at}")
    rate = len(keys)
    ours, peer = rate / np.array(times["ours"]), rate / np.array(times["bare"])
    return [
        against("full publication", "rows/s", ours, "a bare pipelined MSET", peer, OF_MSET),
        *_disturbed(served),
    ]


def _disturbed(served: Served) -> list[Result]:
    """The slowest hundredth of lookups while a publication runs, and while none does."""
    lookup, client = Lookup.connect(served.redis.url, "fast"), served.client
    asked = some_ids(served, _KEYS_A_CALL)

    def calls_until(ended: Callable[[], bool]) -> list[float]:
        taken: list[float] = []
        while not ended() or len(taken) < 20:
            taken.append(1000 * seconds_of(lambda: lookup.embeddings("item", asked[len(taken) % len(asked)])))
        return taken

    def p99_until(ended: Callable[[], bool]) -> float:
        return float(np.percentile(np.array(calls_until(ended)), 99))

    p99: dict[str, list[float]] = {"quiet": [], "publishing": []}
    for at in range(max(2, served.sizes.rounds // 2)):
        started, seconds = time.perf_counter(), 0.02 * served.sizes.calls
        p99["quiet"].append(p99_until(partial(_is_past, started + seconds)))
        command = [sys.executable, "-m", "benches.serving_publish", served.redis.url, str(served.sizes.rows)]
        with subprocess.Popen([*command, f"beside-{at}"], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()  # it begins now
            p99["publishing"].append(p99_until(partial(_has_ended, child)))
        remove_version(client, "published", f"beside-{at}")
    what = "p99 of a lookup of 100 ids while a publication runs"
    return [against(what, "ms", np.array(p99["publishing"]), "its quiet value", np.array(p99["quiet"]), DISTURBED)]


def _is_past(moment: float) -> bool:
    return time.perf_counter() > moment


def _has_ended(child: "subprocess.Popen[str]") -> bool:
    return child.poll() is not None
