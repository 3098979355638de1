"""Sections that the YAML of several jobs has, field for field; ``recsys.fields.build`` checks them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from recsys.fields import NotEmpty
from recsys.streams.security import check_security

Text = Annotated[str, NotEmpty()]


@dataclass(frozen=True, kw_only=True)
class ExternalKafka:
    """``kafka``: an external one, and how to log in to it."""

    bootstrap_servers: Text
    security: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_security(self.security)


@dataclass(frozen=True, kw_only=True)
class Redis:
    """``redis``: an external one, by its URL."""

    url: Text | None


@dataclass(frozen=True, kw_only=True)
class Serving:
    """``serving``: the name that rows are published under."""

    model: Text


@dataclass(frozen=True, kw_only=True)
class Served:
    """Where a published model is found: in the Redis at a URL, of a run, or of the latest run."""

    serving: Serving
    run: Path | None
    redis: Redis
