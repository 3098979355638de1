"""Shared by all tests: one thread for torch, as in the workers, no deadlines, and a small data set with a pattern."""

from pathlib import Path

import pytest
import torch
from films import write_films
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# Time says nothing on a shared machine, and the first text drawn on a new one builds the table of Unicode (2 s).
settings.register_profile("recsys", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recsys")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 3,000 impressions under the name ml100k, in which users like their own genre."""
    folder = tmp_path_factory.mktemp("films") / "ml100k"
    write_films(folder, num_users=40, num_items=60, num_impressions=3000)
    return folder
