"""Serve lookups and rankings over HTTP, until Ctrl-C: ``python -m jobs.serve port=8000``."""

import contextlib
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import job
from jobs.sections import Served, Text
from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Port, build


@dataclass(frozen=True, kw_only=True)
class LimitsSection:
    """``limits``: what a request may cost; the token is in the environment variable that ``token_env`` names."""

    token_env: Text | None
    max_body_bytes: Annotated[int, AtLeast(1)]
    max_in_flight: Annotated[int, AtLeast(1)]
    timeout_seconds: Annotated[float, Above(0)]


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Served):
    """Where to listen; a port of null is a free one."""

    host: Text
    port: Port | None
    limits: LimitsSection


@job("serve")
def main(config: dict[str, Any], folder: Path) -> None:
    """Answer until Ctrl-C."""
    settings = build(ServeSettings, config, "")
    with _listening(settings.host, settings.port) as listener:
        import uvicorn

        from recsys.runtime.latest import open_redis
        from recsys.serving import Lookup, Ranker
        from recsys.serving.app import build_app
        from recsys.serving.guard import Limits, token_of

        said = settings.limits
        limits = Limits(
            token=token_of(said.token_env),
            max_body_bytes=said.max_body_bytes,
            max_in_flight=said.max_in_flight,
            timeout_seconds=said.timeout_seconds,
        )

        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        with open_redis(settings.redis.url, settings.run) as url:
            model = settings.serving.model
            app = build_app(Lookup.connect(url, model), Ranker.connect(url, model), limits)
            port = listener.getsockname()[1]
            print(f"serving on http://{settings.host}:{port}/docs, from the Redis at {_shown(url)}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn's own, once it has answered what was asked
                uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listener])


def _listening(host: str, port: int | None) -> socket.socket:
    """A socket bound before anything is started; ConfigError where host and port can not be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port or 0), family=family)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host={host} port={port}: can not listen there, {error}; choose others") from error


def _shown(url: str) -> str:
    """The URL without a password."""
    return url.rpartition("@")[2] if "@" in url else url


if __name__ == "__main__":
    main()
