"""Find the Redis to ask: the one at a URL, or that of the latest run, reopened where it is not running."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.embedded.redis import EmbeddedRedis, check_redis, running_redis
from recsys.errors import DataError

_SERVED = "redis/served"  # a mark in a run's folder: made once, when its Redis holds a first version


def mark_served(run: Path) -> None:
    """Note that the Redis in a run's folder has something to serve: from now on it may be the latest run's."""
    if (run / "redis").is_dir():
        (run / _SERVED).touch()


def latest_run(runs: Path) -> Path:
    """The run folder, in ``runs``, whose Redis was the last to get a first version; DataError where there is none."""
    marks = [mark for pattern in (f"*/{_SERVED}", f"*/*/{_SERVED}") for mark in runs.glob(pattern)]
    if not marks:
        raise DataError(
            f"no run with a serving cache in {runs}/; run: make demo, or python -m jobs.online, or give redis.url="
        )
    return max(marks, key=lambda mark: mark.stat().st_mtime_ns).parent.parent


@contextmanager
def open_redis(url: str | None, run: Path | None, runs: Path = Path("runs")) -> Iterator[str]:
    """The URL to ask for the time of the block: ``url``, or the Redis of ``run``, or that of the latest run."""
    if url is not None:
        check_redis(url)
        yield url
        return
    folder = latest_run(runs) if run is None else run
    if not (folder / "redis").is_dir():
        raise DataError(f"{folder} has no serving cache; give the folder of a run, or redis.url=")
    running = running_redis(folder / "redis")
    if running is not None:
        yield running
        return
    with EmbeddedRedis(folder / "redis") as redis:
        yield redis.url
