"""How a run is getting on, in Redis beside what it publishes: for a page that shows it live."""

import json
import math
from collections.abc import Mapping
from typing import Any

from recsys.embedded.redis_url import REDIS_ERRORS, Client, open_client
from recsys.rows.layout import Layout

_TTL_SECONDS = 30
_TIMEOUT_SECONDS = 0.5


class ProgressNote:
    """Keeps the last look at a run under ``layout.progress_key``; it expires half a minute after the last one.

    Nobody waits for it: where Redis does not take a look, the next one may come through.
    """

    def __init__(self, client: Client, layout: Layout) -> None:
        self._client, self._key = client, layout.progress_key

    @classmethod
    def connect(cls, redis_url: str, layout: Layout) -> "ProgressNote":
        """A note in the Redis at a URL."""
        timeouts = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
        return cls(open_client(redis_url, **timeouts), layout)

    def put(self, look: Mapping[str, Any]) -> bool:
        """Write a look of plain values, NaN as null; whether Redis took it."""
        plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in look.items()}
        try:
            self._client.set(self._key, json.dumps(plain), ex=_TTL_SECONDS)
        except REDIS_ERRORS:
            return False
        return True

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()
