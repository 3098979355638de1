"""Put a trained run into Redis: ``python -m jobs.publish run=runs/2026-01-31_12-00-00``."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jobs.launch import job
from recsys.embedded.redis import EmbeddedRedis, check_redis, running_redis
from recsys.features.state import FeatureState
from recsys.models.recommender import Recommender
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.runtime.settings import run_name
from recsys.sync.run import publish_run
from recsys.training.checkpoint import load_checkpoint


@job("publish")
def main(config: dict[str, Any], folder: Path) -> None:
    """Load the run's checkpoint and publish all of it; without redis.url, into a Redis in the run's own folder."""
    run = Path(config["run"])
    checkpoint = load_checkpoint(run / "checkpoint")
    serving = config["serving"]
    store = LocalRows(Recommender(checkpoint.blueprint).groups)
    store.restore(checkpoint.rows)
    with ExitStack() as stack:
        url = _redis_url(config["redis"]["url"], run, stack)
        published = publish_run(
            url,
            Layout(model=serving["model"], run=run_name(run), row_format=serving["row_format"]),
            blueprint=checkpoint.blueprint,
            store=store,
            features=[FeatureState.from_json(dict(state["features"])) for state in checkpoint.joiners],
            time_ms=checkpoint.about["time_ms"],
            about=checkpoint.about,
        )
    print(
        f"published {published.rows:,} rows, {published.users:,} users, {published.items:,} items of {run} "
        f"as model {serving['model']} in {published.seconds:.1f} s"
    )


def _redis_url(url: str | None, run: Path, stack: ExitStack) -> str:
    if url is not None:
        check_redis(url)
        return url
    return running_redis(run / "redis") or stack.enter_context(EmbeddedRedis(run / "redis")).url


if __name__ == "__main__":
    main()
