"""One real Redis for all serving tests; each test publishes under a model name of its own."""

from collections.abc import Iterator

import pytest

from recsys.embedded.redis import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url
