"""Settings from plain values: each is checked against its annotation, and a mistake names the key as it is typed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Below, Between, NotEmpty, Port, build, choose


class Anything(Protocol):
    def learn(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Inner:
    seconds: Annotated[float, Above(0)]
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    count: Annotated[int, AtLeast(1)] = 1
    whole: int = 0
    share: Annotated[float, AtLeast(0), Below(1)] = 0.0
    rate: float = 1.0
    flag: bool = False
    name: Annotated[str, NotEmpty()] = "x"
    folder: Path = Path()
    limit: Annotated[int, AtLeast(1)] | None = None
    kind: Literal["a", "b"] = "a"
    start: Literal["first"] | Annotated[int, AtLeast(0)] = "first"
    id: int | str = 0
    sizes: Annotated[tuple[Annotated[int, AtLeast(1)], ...], NotEmpty()] = (1,)
    inner: Inner = field(default_factory=lambda: Inner(seconds=1.0))
    actions: Mapping[str, Inner] = field(default_factory=dict)
    listed: tuple[Inner, ...] = ()
    security: Mapping[str, Any] = field(default_factory=dict)
    learner: Anything | None = None
    port: Port = 1

    def __post_init__(self) -> None:
        if self.whole > self.count:
            raise ConfigError(f"whole {self.whole} is more than count {self.count}")


def test_values_become_what_the_annotations_say() -> None:
    learner = object()
    given_fields = {
        "count": 2, "share": 0, "rate": 3, "folder": "runs/x", "limit": None, "kind": "b", "start": 7, "id": "seven",
        "sizes": [4, 2], "inner": {"seconds": 2}, "actions": {"like": {"seconds": 3, "final": True}},
        "listed": [{"seconds": 1}], "security": {"sasl": {"user": 1}}, "learner": learner, "port": 65535,
    }  # fmt: skip
    built = build(Settings, given_fields, "")
    assert (built.count, built.limit, built.kind, built.start, built.id, built.port) == (
        2,
        None,
        "b",
        7,
        "seven",
        65535,
    )
    assert built.share == 0.0 and type(built.share) is float
    assert built.rate == 3.0 and type(built.rate) is float
    assert (built.folder, built.sizes) == (Path("runs/x"), (4, 2))
    assert built.inner == Inner(seconds=2.0)
    assert built.actions == {"like": Inner(seconds=3.0, final=True)}
    assert built.listed == (Inner(seconds=1.0),)
    assert built.security == {"sasl": {"user": 1}}
    assert built.learner is learner
    assert build(Settings, {"inner": built.inner, "folder": Path("y")}, "").inner is built.inner


MISTAKES: list[tuple[str, Any, str]] = [
    ("count", "two", "count='two': give a whole number of at least 1"),
    ("count", True, "count=true: give a whole number of at least 1"),
    ("count", 0, "count=0: give a whole number of at least 1"),
    ("count", 2.0, "count=2.0: give a whole number of at least 1"),
    ("count", None, "count=null: give a whole number of at least 1"),
    ("whole", "1\n2", r"whole='1\n2': give a whole number"),
    ("share", 1, "share=1: give a number of at least 0 and below 1"),
    ("rate", math.nan, "rate=NaN: give a number"),
    ("rate", math.inf, "rate=Infinity: give a number"),
    ("rate", 10**400, f"rate={10**400}: give a number"),
    ("rate", False, "rate=false: give a number"),
    ("flag", 1, "flag=1: give true or false"),
    ("flag", "yes", "flag='yes': give true or false"),
    ("name", 5, "name=5: give text (not empty)"),
    ("name", "", "name='': give text (not empty)"),
    ("folder", 3, "folder=3: give a path"),
    ("folder", "", "folder='': give a path"),
    ("limit", 0, "limit=0: give a whole number of at least 1, or null"),
    ("limit", "abc", "limit='abc': give a whole number of at least 1, or null"),
    ("kind", "c", "kind='c': give a or b"),
    ("kind", ["a"], 'kind=["a"]: give a or b'),
    ("start", -1, "start=-1: give first, or a whole number of at least 0"),
    ("id", 1.5, "id=1.5: give a whole number, or text"),
    ("sizes", 5, "sizes=5: give a list (each a whole number of at least 1) (not empty)"),
    ("sizes", [4, "x"], "sizes[1]='x': give a whole number of at least 1"),
    ("inner", 5, "inner=5: give fields (seconds, final)"),
    ("inner", {}, "inner.seconds is not given; set inner.seconds=…"),
    ("inner", {"second": 1}, "unknown field 'inner.second'; known: seconds, final"),
    ("actions", {"like": {"seconds": "x"}}, "actions.like.seconds='x': give a number above 0"),
    ("actions", {"like": 5}, "actions.like=5: give fields (seconds, final)"),
    ("actions", {1: {"seconds": 1}}, "actions=1: give text"),
    ("actions", [], "actions=[]: give fields by name"),
    ("listed", [{"seconds": 1}, {"seconds": -1}], "listed[1].seconds=-1: give a number above 0"),
    ("security", "plain", "security='plain': give fields by name"),
    ("port", 65536, "port=65536: give a whole number between 1 and 65535"),
    ("wings", 2, f"unknown field 'wings'; known: {', '.join(field.name for field in fields(Settings))}"),
]


@pytest.mark.parametrize(("name", "value", "said"), MISTAKES)
def test_a_mistake_names_the_key_the_value_and_what_to_give(name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Settings, {name: value}, "")
    assert str(caught.value) == said
    assert "\n" not in said


def test_a_mistake_below_a_section_begins_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^model\.count='x': "):
        build(Settings, {"count": "x"}, "model")
    with pytest.raises(ConfigError, match=r"^model: whole 3 is more than count 1$"):  # what fields say together
        build(Settings, {"whole": 3}, "model")
    with pytest.raises(ConfigError, match=r"^whole 3 is more than count 1$"):
        build(Settings, {"whole": 3}, "")
    with pytest.raises(ConfigError, match=r"^model='deepfm': give fields \("):
        build(Settings, "deepfm", "model")  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"kind": "c"}, {"kind": ["a"]}, {"kind": None}, {}])
def test_a_kind_that_is_not_known(fields: dict[str, Any]) -> None:
    assert choose("table", {"kind": "a"}, {"a": 1, "b": 2}) == "a"
    with pytest.raises(ConfigError, match=r"^unknown table\.kind .*; known: a, b$"):
        choose("table", fields, {"a": 1, "b": 2})


def test_a_section_with_a_kind_is_no_text() -> None:
    with pytest.raises(ConfigError, match=r"^table='full': give fields, with a kind of a, b$"):
        choose("table", "full", ["a", "b"])  # type: ignore[arg-type]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([field.name for field in fields(Settings)]), PLAIN)
def test_anything_is_taken_or_refused_on_one_line(name: str, value: Any) -> None:
    try:
        build(Settings, {name: value}, "")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


@given(st.floats(), st.floats(-10, 10), st.floats(0, 10))
def test_ranges_hold_what_they_say(value: float, low: float, width: float) -> None:
    assert AtLeast(low).holds(value) == (value >= low)
    assert Above(low).holds(value) == (value > low)
    assert Below(low).holds(value) == (value < low)
    assert Between(low, low + width).holds(value) == (low <= value <= low + width)
