"""Lookups out of Redis, beside a bare redis-py loop, redis-benchmark and Feast."""

import asyncio
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benches.result import Result, Target, against, left_out
from benches.serving_data import WIDTH
from benches.serving_runs import FEAST, Served, in_turns, some_ids
from recsys.embedded.redis_url import open_client
from recsys.rows.layout import Layout, field_bytes, split_bytes
from recsys.serving import AsyncLookup, Lookup
from recsys.sync.versions import remove_version

OF_BARE, OF_BENCHMARK = Target(value=0.8), Target(value=0.7)
_CLIENTS, _KEYS_A_CALL = 32, 100


def lookups(served: Served) -> list[Result]:
    """Rows a second through Lookup, and through a bare MGET of the same keys."""
    results = []
    for named, url in (("TCP", served.redis.url), ("its socket", served.redis.socket_url)):
        for model, num in (("fast", 100), ("fast", 1000), ("half", 1000)):
            lookup, client = Lookup.connect(url, model), open_client(url)
            run, _ = lookup.published.current()
            asked = some_ids(served, num)
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
    asked = some_ids(served, 1000)
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
    asked = some_ids(served, _KEYS_A_CALL)

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


def feast(served: Served) -> list[Result]:
    """Where Feast is installed its store would be filled and read here; it is no requirement of ours."""
    why = "it is not installed" if importlib.util.find_spec("feast") is None else "its side is not written yet"
    lookup, asked = Lookup.connect(served.redis.url, "fast"), some_ids(served, _KEYS_A_CALL)
    (ours,) = in_turns(served.sizes.rounds, lambda: [lookup.embeddings("item", ids) for ids in asked])
    return [left_out("Lookup, 100 ids a call", "rows/s", _KEYS_A_CALL * len(asked) / ours, FEAST, why)]
