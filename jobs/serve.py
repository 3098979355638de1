"""Serve lookups and rankings over HTTP, until Ctrl-C: ``python -m jobs.serve port=8000``."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jobs.launch import job
from jobs.sections import Served, Text
from recsys.embedded.process import listening
from recsys.fields import Above, AtLeast, Port, build
from recsys.streams.security import check_security

if TYPE_CHECKING:
    from recsys.serving.clicks import Clicks


@dataclass(frozen=True, kw_only=True)
class LimitsSection:
    """``limits``: what a request may cost; the token is in the environment variable that ``token_env`` names."""

    token_env: Text | None
    max_body_bytes: Annotated[int, AtLeast(1)]
    max_in_flight: Annotated[int, AtLeast(1)]
    timeout_seconds: Annotated[float, Above(0)]


@dataclass(frozen=True, kw_only=True)
class RetrievalSection:
    """``retrieval``: see recsys.serving.RetrievalConfig."""

    max_candidates: Annotated[int, AtLeast(1)]
    num_reranked: Annotated[int, AtLeast(1)]
    max_age_seconds: Annotated[float, AtLeast(0)]


@dataclass(frozen=True, kw_only=True)
class ClickSection:
    """``kafka``: where what is shown and clicked goes, of which ``kinds``; without servers, nowhere."""

    bootstrap_servers: Text | None
    num_partitions: Annotated[int, AtLeast(1)]
    kinds: tuple[Text, ...]
    security: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_security(self.security)


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Served):
    """Where to listen; a port of null is a free one."""

    host: Text
    port: Port | None
    limits: LimitsSection
    retrieval: RetrievalSection
    kafka: ClickSection


@job("serve")
def main(config: dict[str, Any], folder: Path) -> None:
    """Answer until Ctrl-C."""
    settings = build(ServeSettings, config, "")
    with listening(settings.host, settings.port) as listener:
        import uvicorn

        from recsys.runtime.latest import open_redis
        from recsys.serving import Lookup, Ranker, RetrievalConfig
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
            app = build_app(
                Lookup.connect(url, model),
                Ranker.connect(url, model),
                limits,
                RetrievalConfig(**asdict(settings.retrieval)),
                _clicks(settings.kafka),
            )
            port = listener.getsockname()[1]
            print(
                f"serving on http://{settings.host}:{port}/docs, from the Redis at {_shown(url)}; a page is at /",
                flush=True,
            )
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn's own, once it has answered what was asked
                uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listener])


def _clicks(kafka: ClickSection) -> "Clicks | None":
    """Beside what others send to a live stream."""
    if kafka.bootstrap_servers is None:
        return None
    from recsys.runtime.events import KafkaEvents
    from recsys.serving.clicks import Clicks, LiveStream

    events = KafkaEvents(
        bootstrap_servers=kafka.bootstrap_servers, num_partitions=kafka.num_partitions, security=kafka.security
    )
    return Clicks(LiveStream(events.open_sink, events.num_partitions), kafka.kinds)


def _shown(url: str) -> str:
    """The URL without a password."""
    return url.rpartition("@")[2] if "@" in url else url


if __name__ == "__main__":
    main()
