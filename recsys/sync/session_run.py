"""Put a trained run of sessions into Redis: rows, dense parameters, the catalogue; then one switch.

It is a version beside others, as any run is: ``recsys.sync.versions`` lists, switches back and removes it.
"""

from collections.abc import Mapping
from typing import Any

from recsys.embedded.redis_url import open_client, write_all
from recsys.errors import ConfigError
from recsys.models.sessions.catalogue import Catalogue
from recsys.models.sessions.recommender import SessionBlueprint
from recsys.rows.layout import SESSIONS, Layout
from recsys.rows.store import RowStore
from recsys.sync.publisher import Published, Publisher
from recsys.sync.versions import or_service_error

_BYTES_PER_PART = 2**24  # of a catalogue: Redis takes no value above 2^29


def publish_sessions(
    redis_url: str,
    layout: Layout,
    *,
    blueprint: SessionBlueprint,
    store: RowStore,
    catalogue: Catalogue,
    about: Mapping[str, Any],
) -> Published:
    """Publish a run of jobs.session under ``layout``, and serve it from then on.

    ServiceError where Redis does not answer, ConfigError where a run of this name is published as something else;
    what is served is then what was served before.
    """
    if blueprint.model.get("mode") == "reference":
        raise ConfigError(
            "session_model.mode=reference answers as of a test session, for comparison; publish a run of mode=strict"
        )
    data = catalogue.to_bytes()
    parts = [data[start : start + _BYTES_PER_PART] for start in range(0, len(data), _BYTES_PER_PART)]
    publisher = Publisher.connect(redis_url, store, [], layout, time_ms=lambda: 0)
    publisher.describe(blueprint.to_json(), {**about, "kind": SESSIONS, "catalogue_parts": len(parts)})
    client = open_client(redis_url)
    writes = [("SET", key, part) for key, part in zip(layout.catalogue_keys(len(parts)), parts, strict=True)]
    or_service_error(lambda: write_all(client, writes))
    published = publisher.publish()
    publisher.switch()
    return published
