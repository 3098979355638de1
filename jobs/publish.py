"""Put a trained run into Redis: ``python -m jobs.publish run=runs/2026-01-31_12-00-00``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import job
from jobs.sections import Redis, Serving, Text
from recsys.fields import Above, build


@dataclass(frozen=True, kw_only=True)
class Publishing(Serving):
    """``serving``: as what to publish; ``sync_seconds`` is for a run that goes on learning."""

    row_format: str
    layout: str
    num_buckets: int
    cluster: bool
    sync_seconds: Annotated[float, Above(0)]


@dataclass(frozen=True, kw_only=True)
class PublishSettings:
    """What to publish, and where to."""

    serving: Publishing
    run: Path
    checkpoints: Text | None
    redis: Redis


@job("publish")
def main(config: dict[str, Any], folder: Path) -> None:
    """Load the run's checkpoint and publish all of it; without redis.url, into a Redis in the run's own folder."""
    settings = build(PublishSettings, config, "")

    from recsys.features.state import FeatureState
    from recsys.models.recommender import Recommender
    from recsys.rows.local import LocalRows
    from recsys.runtime.settings import build_layout
    from recsys.sync.run import publish_run
    from recsys.training.checkpoint import load_checkpoint

    layout = build_layout(config["serving"], settings.run)
    checkpoint = load_checkpoint(settings.checkpoints or settings.run / "checkpoints")
    store = LocalRows(Recommender(checkpoint.blueprint).groups)
    store.restore(checkpoint.rows)
    with _redis(settings.redis.url, settings.run) as url:
        published = publish_run(
            url,
            layout,
            blueprint=checkpoint.blueprint,
            store=store,
            features=[FeatureState.from_json(dict(state["features"])) for state in checkpoint.joiners],
            time_ms=checkpoint.about["time_ms"],
            about=checkpoint.about,
        )
    print(
        f"published {published.rows:,} rows, {published.users:,} users, {published.items:,} items of {settings.run} "
        f"as model {layout.model} in {published.seconds:.1f} s"
    )


@contextmanager
def _redis(url: str | None, run: Path) -> Iterator[str]:
    """The Redis to publish into; the run's own has something to serve afterwards."""
    from recsys.embedded.redis import EmbeddedRedis, check_redis, running_redis
    from recsys.runtime.latest import mark_served

    if url is not None:
        check_redis(url)
        yield url
        return
    running = running_redis(run / "redis")
    if running is not None:
        yield running
    else:
        with EmbeddedRedis(run / "redis") as redis:
            yield redis.url
    mark_served(run)


if __name__ == "__main__":
    main()
