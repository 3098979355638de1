"""Find the Redis to ask: the one at a URL, or that of the latest run, reopened where it is not running."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.embedded.redis import EmbeddedRedis, check_redis, running_redis
from recsys.errors import DataError


def latest_run(runs: Path) -> Path:
    """The run folder, in ``runs``, whose Redis data is newest; DataError where there is none."""
    folders = [path.parent for pattern in ("*/redis", "*/*/redis") for path in runs.glob(pattern)]
    if not folders:
        raise DataError(
            f"no run with a serving cache in {runs}/; run: make demo, or python -m jobs.online, or give redis.url="
        )
    return max(folders, key=lambda folder: (folder / "redis").stat().st_mtime_ns)


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
