"""How fast rows are served from Redis, beside a bare redis-py loop and redis-benchmark: ``make bench-serving``.

Redis is the embedded one, over its socket and TCP. The bare loop fetches the same bytes with redis-py and throws them
away. Leaves ``serving.json`` and ``serving.html`` in ``runs/bench``. ``--quick`` is a small form that says nothing
about speed.
"""

import asyncio
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.neighbours import Neighbours
from benches.result import Result, Target, Values, against, alone, beside, left_out, write_results
from benches.running import Told, command_line, run
from benches.serving_data import WIDTH, Films, films, rows_alone
from recsys.embedded.redis import EmbeddedRedis
from recsys.embedded.redis_url import open_client
from recsys.features.extract import Extractor
from recsys.rows.layout import Layout, field_bytes, split_bytes
from recsys.serving import AsyncLookup, Lookup, Ranker
from recsys.serving.published import PublishedRun
from recsys.serving.ranker import Scorer
from recsys.sync.publisher import Publisher
from recsys.sync.versions import remove_version
from recsys.training.report import Plot

TITLE = "Serving"
OF_BARE, OF_BENCHMARK, OF_MSET = Target(value=0.8), Target(value=0.7), Target(value=0.7)
RANK_MS, DISTURBED = Target(value=15, bound="most"), Target(value=2, bound="most")
FEAST = "Feast's Redis online store"
FEAST_BYTES = 347  # a row of 16 float32 in Feast's layout, the least that was measured of it elsewhere
_CLIENTS, _KEYS_A_CALL = 32, 100


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    rows: int = 1_000_000
    items: int = 5_000
    calls: int = 200  # a round
    rounds: int = 7
    rankings: int = 300


QUICK = Sizes(rows=2_000, items=600, calls=5, rounds=2, rankings=10)


@dataclass(frozen=True)
class Served:
    """A Redis with films in it."""

    redis: EmbeddedRedis
    films: Films
    sizes: Sizes

    @property
    def client(self) -> Any:
        """A client of its own."""
        return open_client(self.redis.url)


def measure(sizes: Sizes, folder: Path, told: Told) -> list[Result]:
    """All measures; writes what they found into ``folder``."""
    torch.set_num_threads(1)
    neighbours, results = Neighbours(), []
    with EmbeddedRedis(Path(tempfile.mkdtemp(prefix="redis-"))) as redis:
        redis_client = open_client(redis.url)
        redis_client.config_set("appendonly", "no")  # a disk is not what is measured
        told(f"publishing {sizes.rows:,} rows")
        served = Served(redis, films(sizes.rows, sizes.items), sizes)
        served.films.serve(redis_client, "fast")
        served.films.serve(redis_client, "half", row_format="float16")
        for what, measured in MEASURES.items():
            told(what)
            results += measured(served)
    others = neighbours.cores_used() or 0.0
    results = beside(results, others)
    about = {"sizes": str(sizes), "cores used by others": others}
    plots: list[Plot] = []
    told(f"written: {', '.join(map(str, write_results(folder, 'serving', TITLE, results, about, plots)))}")
    return results


def lookups(served: Served) -> list[Result]:
    """Rows a second through Lookup, and through a bare MGET of the same keys."""
    results = []
    for named, url in (("TCP", served.redis.url), ("its socket", served.redis.socket_url)):
        for model, num in (("fast", 100), ("fast", 1000), ("half", 1000)):
            lookup, client = Lookup.connect(url, model), open_client(url)
            run, _ = lookup.published.current()
            asked = _some_ids(served, num)
            keys = [run.layout.row_keys("item", ids) for ids in asked]
            bare, ours = in_turns(
                served.sizes.rounds, partial(_each, client.mget, keys), partial(_each_item, lookup, asked)
            )
            rate = num * len(asked)
            what = f"Lookup, {num} ids a call, {run.layout.row_format}, over {named}"
            results.append(against(what, "rows/s", rate / ours, "a bare MGET loop", rate / bare, OF_BARE))
    return results


def _each(act: Callable[[Any], object], arguments: Sequence[Any]) -> None:
    for argument in arguments:
        act(argument)


def _each_item(lookup: Lookup, asked: Sequence[Any]) -> None:
    for ids in asked:
        lookup.embeddings("item", ids)


def compact_lookups(served: Served) -> list[Result]:
    """The same of rows in small hashes, beside a pipeline of HGET; its bytes are measured elsewhere."""
    client = served.client
    buckets = max(1, served.sizes.rows // 64)
    layout = served.films.serve(client, "compact", row_format="float16", layout="compact", num_buckets=buckets)
    lookup = Lookup.connect(served.redis.url, "compact")
    asked = _some_ids(served, 1000)
    keys = [[*zip(layout.row_keys("item", ids), split_bytes(field_bytes(ids)), strict=True)] for ids in asked]

    def bare() -> None:
        for some in keys:
            pipeline = client.pipeline(transaction=False)
            for key, field in some:
                pipeline.hmget(key, [field])
            pipeline.execute()

    bare_R, ours_R = in_turns(served.sizes.rounds, bare, lambda: [lookup.embeddings("item", ids) for ids in asked])
    rate = 1000 * len(asked)
    what = "Lookup, 1000 ids a call, compact float16, over TCP"
    result = against(what, "rows/s", rate / ours_R, "a bare HMGET pipeline", rate / bare_R, OF_BARE)
    remove_version(client, "compact", layout.run, even_if_served=True)
    return [result]


def asyncio_clients(served: Served) -> list[Result]:
    """Requests a second of 32 asyncio clients, 100 keys each, and of redis-benchmark's 32 connections."""
    requests = 20 * served.sizes.calls
    asked = _some_ids(served, _KEYS_A_CALL)

    lookup = AsyncLookup.connect(served.redis.url, "fast")  # a model is built at the first call, which is not counted

    def ours() -> None:
        asyncio.run(_clients(lookup, asked, requests // _CLIENTS))

    program = shutil.which("redis-benchmark")
    what, peer = f"asyncio, {_CLIENTS} clients, {_KEYS_A_CALL} ids a call", "redis-benchmark, the same MGET"
    if program is None:
        (ours_R,) = in_turns(served.sizes.rounds, ours)
        return [left_out(what, "calls/s", requests / ours_R, peer, "redis-benchmark is not installed", OF_BENCHMARK)]
    layout = Layout(model="bench", run="keys")
    client = served.client
    names = [f"{layout.prefix}float32:item:{number:08}" for number in range(_KEYS_A_CALL)]  # no bytes that a shell eats
    client.mset(dict.fromkeys(names, b"x" * layout.record(WIDTH).itemsize))
    command = [program, "-p", str(served.redis.port), "-c", str(_CLIENTS), "-n", str(requests), "-q", "MGET", *names]
    bare_R, ours_R = in_turns(
        served.sizes.rounds, lambda: subprocess.run(command, check=True, capture_output=True), ours
    )
    return [against(what, "calls/s", requests / ours_R, peer, requests / bare_R, OF_BENCHMARK)]


async def _clients(lookup: AsyncLookup, asked: Sequence[Any], calls: int) -> None:
    async def client(number: int) -> None:
        for call in range(calls):
            await lookup.embeddings("item", asked[(number + call) % len(asked)])

    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))


def rankings(served: Served) -> list[Result]:
    """Milliseconds of a ranking with DCNv2, and the shares of Redis, features and decoding, and the model in it."""
    results = []
    ranker = Ranker.connect(served.redis.url, "fast")
    for num in (100, 500):
        candidates = _candidates(served, num)
        taken = np.array([_ranked_ms(ranker, served, candidates[call]) for call in range(served.sizes.rankings)])[5:]
        results.append(alone(f"rank {num} candidates, p50", "ms", [float(np.percentile(taken, 50))]))
        target = RANK_MS if num == 500 else None
        results.append(alone(f"rank {num} candidates, p99", "ms", [float(np.percentile(taken, 99))], target))
        shares = _shares(ranker, served, candidates)
        results += [alone(f"of which: {name}", "% of the time", [share]) for name, share in shares.items()]
    return results


def _ranked_ms(ranker: Ranker, served: Served, candidates: Any) -> float:
    started = time.perf_counter()
    ranker.rank(int(candidates[0]) % len(served.films.user_ids), candidates)
    return 1000 * (time.perf_counter() - started)


def _shares(ranker: Ranker, served: Served, candidates: Sequence[Any]) -> dict[str, float]:
    """Each part timed where it is called, over the same rankings."""
    run, _ = ranker.published.current()
    assert isinstance(run, PublishedRun)
    clocks = {"waiting for Redis": 0.0, "features and batch": 0.0, "model": 0.0}
    whole = time.perf_counter()
    with (
        clocked(clocks, "waiting for Redis", run.rows._wire, "fetch"),
        clocked(clocks, "features and batch", Extractor, "of_item"),
        clocked(clocks, "features and batch", Extractor, "of_user"),
        clocked(clocks, "model", Scorer.__init__.__globals__["Recommender"], "forward"),
    ):
        for some in candidates:
            ranker.rank(1, some)
    whole = time.perf_counter() - whole
    shares = {name: 100 * seconds / whole for name, seconds in clocks.items()}
    return {**shares, "packing, decoding and the rest": 100 - sum(shares.values())}


class clocked:
    """Add the time spent in a function to a clock."""

    def __init__(self, clocks: dict[str, float], name: str, owner: Any, function: str) -> None:
        self._clocks, self._name, self._owner, self._function = clocks, name, owner, function

    def __enter__(self) -> None:
        inner = getattr(self._owner, self._function)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                self._clocks[self._name] += time.perf_counter() - started

        self._own = vars(self._owner).get(self._function)
        setattr(self._owner, self._function, timed)

    def __exit__(self, *error: object) -> None:
        if self._own is None:
            delattr(self._owner, self._function)
        else:
            setattr(self._owner, self._function, self._own)


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
        times["bare"].append(_seconds(bare))
        remove_version(client, "published", "first")
        beside = film.publisher(client, Layout(model="published", run=f"round-{at}"))
        times["ours"].append(_seconds(beside.publish))
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
    asked = _some_ids(served, _KEYS_A_CALL)

    def calls_until(ended: Callable[[], bool]) -> list[float]:
        taken: list[float] = []
        while not ended() or len(taken) < 20:
            taken.append(1000 * _seconds(lambda: lookup.embeddings("item", asked[len(taken) % len(asked)])))
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


def feast(served: Served) -> list[Result]:
    """Where Feast is installed its store would be filled and read here; it is no requirement of ours."""
    why = "it is not installed" if importlib.util.find_spec("feast") is None else "its side is not written yet"
    lookup, asked = Lookup.connect(served.redis.url, "fast"), _some_ids(served, _KEYS_A_CALL)
    (ours,) = in_turns(served.sizes.rounds, lambda: [lookup.embeddings("item", ids) for ids in asked])
    return [left_out("Lookup, 100 ids a call", "rows/s", _KEYS_A_CALL * len(asked) / ours, FEAST, why)]


MEASURES: dict[str, Callable[[Served], list[Result]]] = {
    "lookups": lookups,
    "asyncio": asyncio_clients,
    "rankings": rankings,
    "Feast": feast,
    "publishing": publishing,
    "compact lookups": compact_lookups,
    "memory": memory,
}


def in_turns(rounds: int, *contenders: Callable[[], object]) -> list[Values]:
    """Seconds by round of each contender; a first round that warms things is left out."""
    seconds = np.zeros((len(contenders), rounds))
    for at in range(-1, rounds):
        for number, contender in enumerate(contenders):
            taken = _seconds(contender)
            if at >= 0:
                seconds[number, at] = taken
    return [*seconds]


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _some_ids(served: Served, num: int) -> list[Any]:
    """Ids of as many calls as a round has; those of 1000 ids are a tenth as many."""
    draw = np.random.default_rng(2)
    calls = max(2, served.sizes.calls * 100 // num)
    return [draw.choice(served.films.item_ids, num) for _ in range(calls)]


def _candidates(served: Served, num: int) -> list[list[int]]:
    draw = np.random.default_rng(3)
    known = served.films.item_ids[: served.sizes.items]
    return [draw.choice(known, num).tolist() for _ in range(served.sizes.rankings)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    given = command_line(__doc__).parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    return run(TITLE, lambda told: measure(QUICK if given.quick else Sizes(), given.folder, told))


if __name__ == "__main__":
    sys.exit(main())
