"""Put a whole trained run into Redis: a version beside what is served, then one switch."""

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.features.state import FeatureState
from recsys.models.recommender import Blueprint
from recsys.rows.layout import Layout
from recsys.rows.store import RowStore
from recsys.sync.publisher import Published, Publisher


def publish_run(
    redis_url: str,
    layout: Layout,
    *,
    blueprint: Blueprint,
    store: RowStore,
    features: Sequence[FeatureState],
    time_ms: int,
    about: Mapping[str, Any],
) -> Published:
    """Publish rows, dense parameters and features under ``layout``, and serve them from then on.

    ``time_ms`` is the event time that rankings are made at by default. ServiceError where Redis does not answer,
    ConfigError where a run of this name is published as something else; what is served is then what was served before.
    """
    publisher = Publisher.connect(redis_url, store, features, layout, time_ms=lambda: time_ms)
    publisher.describe(blueprint.to_json(), about)
    published = publisher.publish()
    publisher.switch()
    return published
