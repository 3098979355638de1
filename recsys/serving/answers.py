"""Asking Redis: what does not answer is one line."""

from collections.abc import Callable
from typing import TypeVar

from recsys.embedded.redis_url import REDIS_ERRORS
from recsys.errors import ServiceError

T = TypeVar("T")


def answered(ask: Callable[[], T]) -> T:
    """What ``ask`` returns; ServiceError where Redis does not answer."""
    try:
        return ask()
    except REDIS_ERRORS as error:
        raise ServiceError(f"Redis does not answer ({error}); check redis.url and that the server runs") from error
