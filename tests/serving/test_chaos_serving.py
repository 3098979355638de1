"""A few seeds of ``make chaos-serving``, chosen so that every fault is among them."""

import pytest
from chaos_serving import run_seed


@pytest.mark.parametrize("seed", [0, 1])
def test_serving_holds_under_faults(seed: int) -> None:
    said = run_seed(seed)
    assert said["answers"] > 0
