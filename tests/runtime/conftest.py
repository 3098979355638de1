"""One Ray for all modules of this folder that need no other: each would take 9 s to start its own."""

from collections.abc import Iterator

import pytest

from recsys.runtime.cluster import ray_session


@pytest.fixture(scope="session")
def ray_is_up() -> Iterator[None]:
    """A local Ray; whoever starts actors on it ends them."""
    with ray_session():
        yield
