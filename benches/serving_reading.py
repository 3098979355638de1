"""Lookups out of Redis, beside a bare redis-py loop, redis-benchmark and Feast."""

import asyncio
import importlib.util
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benches.result import Result, Target, against, alone, left_out
from benches.serving_data import WIDTH
from benches.serving_runs import FEAST, Served, in_turns, some_ids
from recsys.embedded.redis_url import open_client
from recsys.rows.layout import Layout, field_bytes, split_bytes
from recsys.serving import AsyncLookup, Lookup
from recsys.sync.versions import remove_version

OF_BARE, OF_BENCHMARK = Target(value=0.8), Target(value=0.7)
_CLIENTS, _KEYS_A_CALL = 32, 100
_BENCHMARKS = Layout(model="fast", run="2026-01-31_12-0")  # keys of 12 digits, as long in all as the films' of 8 bytes


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
    """Requests a second of 32 asyncio clients, 100 keys each, and of redis-benchmark's 32 connections, over TCP.

    Both ask for rows at random, out of as many under keys as long; and both for the same hundred all the time.
    """
    lookup = AsyncLookup.connect(served.redis.url, "fast")  # a model is built at the first call, which is not counted
    asked = some_ids(served, _KEYS_A_CALL)
    program, at_random, the_same = shutil.which("redis-benchmark"), _random_keys(served), _the_same_keys(served)
    results = []
    for rows, ids, keys in (("rows at random", asked, at_random), ("the same rows", asked[:1], the_same)):
        ours = partial(_run_clients, lookup, ids, _num_requests(served))
        what = f"asyncio, {_CLIENTS} clients, {_KEYS_A_CALL} ids a call, {rows}"
        peer = "redis-benchmark, as many MGETs"
        if program is None:
            (ours_R,) = in_turns(served.sizes.rounds, ours)
            why = "redis-benchmark is not installed"
            results.append(
                left_out(what, "calls/s", _num_requests(served) / ours_R, peer, why, OF_BENCHMARK),
            )
            continue
        clients, num = str(_CLIENTS), str(_num_requests(served))
        command = [program, "-p", str(served.redis.port), "-c", clients, "-n", num, "-q", *keys]
        bare = partial(subprocess.run, command, check=True, capture_output=True)
        bare_R, ours_R = in_turns(served.sizes.rounds, bare, ours)
        rates = (_num_requests(served) / ours_R, peer, _num_requests(served) / bare_R)
        results += [against(what, "calls/s", *rates, OF_BENCHMARK), *_cpu_times(served, what, ours, bare)]
    return results


def _num_requests(served: Served) -> int:
    return 20 * served.sizes.calls // _CLIENTS * _CLIENTS or _CLIENTS


def _random_keys(served: Served) -> list[str]:
    """Arguments of redis-benchmark: as many rows as there are of films, of the same bytes, under keys as long."""
    prefix, client = _BENCHMARKS.group_prefix("item").decode(), served.client
    value = b"x" * _BENCHMARKS.record(WIDTH).itemsize
    for start in range(0, served.sizes.rows, 10_000):
        numbers = range(start, min(start + 10_000, served.sizes.rows))
        client.mset({f"{prefix}{number:012}": value for number in numbers})
    return ["-r", str(served.sizes.rows), "MGET", *[f"{prefix}__rand_int__"] * _KEYS_A_CALL]


def _the_same_keys(served: Served) -> list[str]:
    prefix = _BENCHMARKS.group_prefix("item").decode()
    return ["MGET", *(f"{prefix}{number:012}" for number in range(_KEYS_A_CALL))]


def _cpu_times(served: Served, what: str, ours: Callable[[], object], bare: Callable[[], object]) -> list[Result]:
    """Of us, of redis-benchmark (which is C, and decodes nothing), and of Redis under each: others disturb it less."""
    client, results = served.client, []

    def of_redis() -> float:
        info = client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def of_children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    for name, act, own in (("ours", ours, time.process_time), ("redis-benchmark", bare, of_children)):
        before = own(), of_redis()
        act()
        for whose, seconds in ((name, own() - before[0]), (f"Redis under {name}", of_redis() - before[1])):
            microseconds = [1e6 * seconds / _num_requests(served)]
            results.append(alone(f"{what}: CPU time of {whose}", "µs a call", microseconds))
    return results


def _run_clients(lookup: AsyncLookup, asked: Sequence[Any], requests: int) -> None:
    asyncio.run(_clients(lookup, asked, requests // _CLIENTS))


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
