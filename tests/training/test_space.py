"""What a search may choose of: mistakes are told."""

from typing import Any

import pytest

from recsys.errors import RecsysError
from recsys.fields import build
from recsys.training.space import Span, with_parameters


def test_ranges_and_choices() -> None:
    assert build(Span, {"low": 0.1, "high": 1, "log": True}, "a.b") == Span(low=0.1, high=1, log=True)
    assert build(Span, {"choices": [1, "x"]}, "c").choices == (1, "x")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, r"a\.low=None and high=None make no range"),
        ({"low": 2, "high": 1}, "high=1 must be above low=2"),
        ({"low": 0, "high": 1, "log": True}, "low=0 must be above 0 where log=true"),
        ({"choices": []}, r"a\.choices"),
        ({"choices": [1], "low": 1}, "give low and high, or choices"),
        ({"low": 1, "most": 2}, "most"),
    ],
)
def test_mistakes(said: dict[str, Any], message: str) -> None:
    with pytest.raises(RecsysError, match=message):
        build(Span, said, "a").check("a")


def test_a_section_that_is_not_there() -> None:
    with pytest.raises(RecsysError, match=r"space\.fid\.patience: there is no section 'fid'"):
        with_parameters({"fit": {}}, {"fid.patience": 1})
