"""Put a trained run into Redis beside what is served, then switch: ``python -m jobs.publish run=runs/<time>``.

``action=list`` shows the versions that are there, ``action=rollback`` serves an earlier one again, ``action=remove
version=NAME`` removes one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jobs.launch import job
from jobs.sections import Redis, Serving, Text
from recsys.errors import ConfigError
from recsys.fields import Above, build

if TYPE_CHECKING:
    from recsys.rows.layout import Layout


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
    """What to publish, and where to; or what to do with the versions that are there."""

    action: Literal["publish", "list", "rollback", "remove"]
    serving: Publishing
    run: Path | None
    version: Text | None
    checkpoints: Text | None
    redis: Redis

    def __post_init__(self) -> None:
        if self.action == "publish" and self.run is None:
            raise ConfigError("run is not given; set run=…")
        if self.action == "remove" and self.version is None:
            raise ConfigError("version is not given; action=remove needs version=NAME, see action=list")


@job("publish")
def main(config: dict[str, Any], folder: Path) -> None:
    """Do what ``action`` says; without redis.url, in the Redis of the run's own folder."""
    settings = build(PublishSettings, config, "")
    if settings.action == "publish":
        _publish(settings, config["serving"])
    else:
        _manage(settings)


def _publish(settings: PublishSettings, serving: dict[str, Any]) -> None:
    """Load the run's checkpoint and publish all of it."""
    from recsys.training.session_checkpoint import is_session_run

    assert settings.run is not None
    if is_session_run(settings.run):
        _publish_sessions(settings, serving)
        return

    from recsys.features.state import FeatureState
    from recsys.models.recommender import Recommender
    from recsys.rows.local import LocalRows
    from recsys.sync.run import publish_run
    from recsys.training.checkpoint import load_checkpoint

    layout = _layout(settings, serving)
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
        f"as version {layout.run} of model {layout.model} in {published.seconds:.1f} s"
    )


def _publish_sessions(settings: PublishSettings, serving: dict[str, Any]) -> None:
    """The best epoch of a run of jobs.session."""
    from recsys.sync.session_run import publish_sessions
    from recsys.training.session_checkpoint import load_run

    assert settings.run is not None
    if settings.checkpoints is not None:
        raise ConfigError(f"checkpoints={settings.checkpoints}: a run of jobs.session is published from its own folder")
    layout, run = _layout(settings, serving), load_run(settings.run)
    with _redis(settings.redis.url, settings.run) as url:
        published = publish_sessions(
            url, layout, blueprint=run.checkpoint.blueprint, store=run.store, catalogue=run.catalogue, about={}
        )
    print(
        f"published {published.rows:,} rows, {len(run.catalogue.track_ids):,} tracks of {settings.run} as version "
        f"{layout.run} of model {layout.model} in {published.seconds:.1f} s"
    )


def _layout(settings: PublishSettings, serving: dict[str, Any]) -> "Layout":
    """How the run lies in Redis, under its own name unless another is given."""
    from recsys.runtime.settings import build_layout

    assert settings.run is not None
    layout = build_layout(serving, settings.run)
    return layout if settings.version is None else replace(layout, run=settings.version)


def _manage(settings: PublishSettings) -> None:
    """List, switch back or remove."""
    from recsys.embedded.redis_url import open_client
    from recsys.runtime.latest import open_redis
    from recsys.sync.versions import list_versions, or_service_error, remove_version, roll_back

    model = settings.serving.model
    with open_redis(settings.redis.url, settings.run) as url:
        client = open_client(url)
        if settings.action == "list":
            for version in or_service_error(lambda: list_versions(client, model)):
                print(version.line())
        elif settings.action == "rollback":
            run = or_service_error(lambda: roll_back(client, model, settings.version))
            print(f"serving version {run} of model {model}")
        elif settings.version is not None:
            removed = settings.version
            num_keys = or_service_error(lambda: remove_version(client, model, removed))
            print(f"removed version {removed} of model {model}: {num_keys:,} keys")


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
