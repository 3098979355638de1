"""The runs of a model that lie in Redis beside each other: listed, switched back, removed."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from recsys.embedded.redis_url import REDIS_ERRORS, Client, write_all
from recsys.errors import ConfigError, DataError, ServiceError
from recsys.rows.layout import Layout, payload_of, pointer_key, runs_key
from recsys.sync.publisher import switch_to

T = TypeVar("T")

_KEYS_PER_STEP = 500
_GLOB_CHARACTERS = "*?[]\\^-"


@dataclass(frozen=True)
class Version:
    """One published run. ``version`` is None where it was never published to its end."""

    run: str
    served: bool
    switched_at_ms: int  # when it was last switched to; 0 is never
    version: int | None
    published_at_ms: int | None

    def line(self) -> str:
        """The version for people.

        >>> Version("2026-01-31", True, 1769817600000, 12, 1769817600000).line()
        '2026-01-31  served  version 12, published 2026-01-31 00:00:00 UTC'
        """
        if self.version is None or self.published_at_ms is None:
            return f"{self.run}  not whole: publish or remove it"
        published = datetime.fromtimestamp(self.published_at_ms / 1000, UTC)
        state = "served" if self.served else "was served" if self.switched_at_ms else "beside"
        return f"{self.run}  {state}  version {self.version}, published {published:%Y-%m-%d %H:%M:%S} UTC"


def list_versions(client: Client, model: str) -> list[Version]:
    """All runs of a model, the one last switched to first."""
    served = client.get(pointer_key(model))
    found = []
    for name, switched_at_ms in client.zrevrange(runs_key(model), 0, -1, withscores=True):
        held = client.get(Layout(model=model, run=name.decode()).versions_key)
        about = {} if held is None else json.loads(payload_of(held))
        found.append(
            Version(
                name.decode(), name == served, int(switched_at_ms), about.get("version"), about.get("published_at_ms")
            )
        )
    return found


def roll_back(client: Client, model: str, run: str | None = None, clock: Callable[[], float] = time.time) -> str:
    """Serve ``run`` again, by default the one that was served before; its name. DataError where there is none."""
    versions = list_versions(client, model)
    if run is None:
        before = [v for v in versions if not v.served and v.switched_at_ms and v.version is not None]
        if not before:
            raise DataError(f"model {model!r} has no version that was served before; name one with version=")
        run = before[0].run
    chosen = next((v for v in versions if v.run == run), None)
    if chosen is None or chosen.version is None:
        known = ", ".join(v.run for v in versions if v.version is not None) or "none"
        raise DataError(f"model {model!r} has no whole version {run!r}; it has {known}")
    switch_to(client, model, run, clock())
    return run


def remove_version(client: Client, model: str, run: str, *, even_if_served: bool = False) -> int:
    """Remove all of a run, some hundred keys at a time, without keeping Redis from its readers; how many keys went.

    What is served is refused (ConfigError). Nobody can open the run once this has begun; where it breaks off, the run
    is still listed, and the same again goes on.
    """
    layout = Layout(model=model, run=run)
    if not even_if_served and client.get(pointer_key(model)) == run.encode():
        raise ConfigError(f"version {run!r} of model {model!r} is the one that is served; switch to another first")
    num = sum(write_all(client, [("UNLINK", layout.meta_key), ("UNLINK", layout.versions_key)]))
    pattern = "".join(f"\\{c}" if c in _GLOB_CHARACTERS else c for c in layout.prefix) + "*"
    keys: Iterator[bytes] = client.scan_iter(match=pattern, count=_KEYS_PER_STEP)
    while step := list(islice(keys, _KEYS_PER_STEP)):
        num += sum(write_all(client, [("UNLINK", key) for key in step]))
    client.zrem(runs_key(model), run)
    return num


def or_service_error(act: Callable[[], T]) -> T:
    """What ``act`` returns; ServiceError where Redis does not answer."""
    try:
        return act()
    except REDIS_ERRORS as error:
        raise ServiceError(f"Redis does not answer ({error}); check redis.url and that the server runs") from error
