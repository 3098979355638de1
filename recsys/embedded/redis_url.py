"""From a URL to a client of Redis: one server, over TLS or a socket too, or a cluster.

``redis://USER:PASSWORD@HOST:6379/0``, ``rediss://…?ssl_ca_certs=FILE`` over TLS, ``unix:///PATH``; with ``+cluster``
after the scheme, any node of a cluster. Options of redis-py, such as ``socket_timeout=1``, go after the question mark.
"""

from typing import Any

import redis

from recsys.embedded.redis import without_password
from recsys.errors import ConfigError, ServiceError

_CLUSTER = "+cluster"
_TIMEOUT_SECONDS = 10.0

REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException)
Client = Any  # a redis.Redis or a redis.RedisCluster: what both can do is what we use


def is_cluster(url: str) -> bool:
    """Whether a URL names a node of a cluster."""
    return url.partition("://")[0].endswith(_CLUSTER)


def open_client(url: str, **options: Any) -> Client:
    """A client of the Redis at a URL; ConfigError where it is none.

    One server is asked at the first command; a cluster here: ServiceError where no node answers.
    """
    options = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS, **options}
    plain = url.replace(_CLUSTER, "", 1) if is_cluster(url) else url
    try:
        # version 2 of the protocol, in which a server says nothing but answers
        if is_cluster(url):
            return redis.RedisCluster.from_url(plain, protocol=2, **options)
        return redis.Redis.from_url(plain, protocol=2, **options)
    except ValueError as error:
        raise ConfigError(
            f"{without_password(url)!r} is no Redis URL; use redis://HOST:PORT/0, rediss:// or unix://"
        ) from error
    except REDIS_ERRORS as error:
        raise ServiceError(
            f"no node of the Redis cluster at {without_password(url)} answers; check redis.url"
        ) from error


def write_all(client: Client, commands: list[tuple[Any, ...]]) -> list[Any]:
    """Answers to commands of one key each, sent together, without a transaction: in a cluster to whom they concern."""
    if not commands:
        return []
    pipeline = client.pipeline(transaction=False) if isinstance(client, redis.Redis) else client.pipeline()
    for command in commands:
        pipeline.execute_command(*command)
    answers: list[Any] = pipeline.execute()
    return answers
