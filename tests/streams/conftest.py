"""What kafka-python leaves behind."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def leftovers() -> Iterator[None]:
    """kafka-python leaves the sockets of refused connections to the garbage collector: called here, with the test's
    own frames gone, and not by chance in somebody else's test."""
    yield
    gc.collect()
