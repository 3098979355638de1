"""Rankings with DCNv2: milliseconds, and where they go."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benches.result import Result, Target, alone
from benches.serving_runs import Served
from recsys.features.extract import Extractor
from recsys.serving import Ranker
from recsys.serving.published import PublishedRun
from recsys.serving.ranker import Scorer

RANK_MS = Target(value=15, bound="most")


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


def _candidates(served: Served, num: int) -> list[list[int]]:
    draw = np.random.default_rng(3)
    known = served.films.item_ids[: served.sizes.items]
    return [draw.choice(known, num).tolist() for _ in range(served.sizes.rankings)]
