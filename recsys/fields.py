"""Settings out of plain values: ``build`` checks each against the annotation of its field, range included.

>>> @dataclasses.dataclass(frozen=True, kw_only=True)
... class Cache:
...     num_rows: Annotated[int, AtLeast(1)]
...     ttl_seconds: Annotated[float, Above(0)] | None = None
...     kind: Literal["lru", "lfu"] = "lru"
>>> build(Cache, {"num_rows": 8, "ttl_seconds": 60}, "cache")
Cache(num_rows=8, ttl_seconds=60.0, kind='lru')
>>> build(Cache, {"num_rows": "many"}, "cache")
Traceback (most recent call last):
recsys.errors.ConfigError: cache.num_rows='many': give a whole number of at least 1
>>> build(Cache, {"num_rows": 8, "ttl_seconds": 0}, "cache")
Traceback (most recent call last):
recsys.errors.ConfigError: cache.ttl_seconds=0: give a number above 0, or null
>>> build(Cache, {"rows": 8}, "cache")
Traceback (most recent call last):
recsys.errors.ConfigError: unknown field 'cache.rows'; known: num_rows, ttl_seconds, kind
"""

import dataclasses
import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from recsys.errors import ConfigError, unknown

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """A range: ``least`` and more."""

    least: float

    def holds(self, value: float) -> bool:
        """Whether a number lies in it."""
        return value >= self.least

    def __str__(self) -> str:
        return f"of at least {self.least}"


@dataclasses.dataclass(frozen=True)
class Above:
    """A range: more than ``limit``."""

    limit: float

    def holds(self, value: float) -> bool:
        """Whether a number lies in it."""
        return value > self.limit

    def __str__(self) -> str:
        return f"above {self.limit}"


@dataclasses.dataclass(frozen=True)
class Below:
    """A range: less than ``limit``."""

    limit: float

    def holds(self, value: float) -> bool:
        """Whether a number lies in it."""
        return value < self.limit

    def __str__(self) -> str:
        return f"below {self.limit}"


@dataclasses.dataclass(frozen=True)
class Between:
    """A range: ``least`` to ``most``, both included."""

    least: float
    most: float

    def holds(self, value: float) -> bool:
        """Whether a number lies in it."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"between {self.least} and {self.most}"


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """A range of lists, mappings and texts: one element or more."""

    def holds(self, value: Collection[Any]) -> bool:
        """Whether there is an element."""
        return len(value) > 0

    def __str__(self) -> str:
        return "(not empty)"


Port = Annotated[int, Between(1, 65535)]


class _Unfit(Exception):
    """A value is not what its annotation says."""


def build(kind: type[T], fields: Mapping[str, Any], where: str) -> T:
    """An instance of a frozen dataclass from plain values, each checked against its field's annotation.

    Annotations: int (never a bool), float (an int is taken; NaN and infinities are not), bool, str, Path (of a str),
    None, Literal, unions of these, ``tuple[X, ...]`` (of a list), ``Mapping[str, X]``, other dataclasses (of a
    mapping, or built already), and ranges in ``Annotated``; Any and protocols take everything. ``where`` is the key
    that the fields stand under as the user types it, "" at the top. Raises ConfigError, one line with the full key.
    """
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{where}={_shown(fields)}: give {_wanted(kind)}")
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    annotations = get_type_hints(kind, include_extras=True)
    for name in fields:
        if name not in known:
            raise unknown("field", _join(where, name), known)
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in fields:
            raise ConfigError(f"{_join(where, name)} is not given; set {_join(where, name)}=…")
    values = {name: _checked(_join(where, name), value, annotations[name]) for name, value in fields.items()}
    try:
        return kind(**values)
    except ConfigError as error:  # fields that do not go together
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def choose(where: str, fields: Mapping[str, Any], known: Collection[str], name: str = "kind") -> str:
    """The kind that ``fields`` name, one of the ``known``; for the builders that pick a dataclass by it.

    >>> choose("model", {"kind": "deepfn"}, ["deepfm", "dcnv2"])
    Traceback (most recent call last):
    recsys.errors.ConfigError: unknown model.kind 'deepfn'; known: deepfm, dcnv2
    """
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{where}={_shown(fields)}: give fields, with a {name} of {', '.join(known)}")
    value = fields.get(name)
    if not isinstance(value, str) or value not in known:
        raise unknown(_join(where, name), value, known)
    return value


def _checked(key: str, value: Any, kind: Any) -> Any:
    """The value as its annotation has it; ConfigError where it is something else."""
    try:
        return _fit(key, value, kind)
    except _Unfit:
        raise ConfigError(f"{key}={_shown(value)}: give {_wanted(kind)}") from None


def _fit(key: str, value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = _fit(key, value, arguments[0])
        if not all(within.holds(found) for within in arguments[1:]):
            raise _Unfit
        return found
    if origin in (Union, UnionType):
        return _fit_any(key, value, arguments)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_checked(f"{key}[{at}]", element, arguments[0]) for at, element in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        names = [_checked(key, name, str) for name in value]
        return {name: _checked(_join(key, name), value[name], arguments[1]) for name in names}
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return build(kind, value, key)  # type: ignore[arg-type]
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind is float and _is_number(value):
        return float(value)
    if not _is(value, kind):
        raise _Unfit
    return value


def _fit_any(key: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    for kind in kinds:
        try:
            return _fit(key, value, kind)
        except _Unfit:
            continue
    raise _Unfit


def _is(value: Any, kind: Any) -> bool:
    """Whether a value needs no conversion."""
    if kind is Any or getattr(kind, "_is_protocol", False):
        return True
    if get_origin(kind) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(kind))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(kind, type) and kind is not float and isinstance(value, kind)


def _is_number(value: Any) -> bool:
    limit = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -limit <= value <= limit


def _join(where: str, name: object) -> str:
    shown = name if isinstance(name, str) and name.isprintable() else repr(name)
    return f"{where}.{shown}" if where else shown


def _shown(value: Any) -> str:
    """A value on one line, nearly as it is typed: text in quotes, null, true and false."""
    return repr(value) if isinstance(value, str) else json.dumps(value, default=repr)


_WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path", NoneType: "null",
}  # fmt: skip


def _wanted(kind: Any) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_wanted(arguments[0])} {' and '.join(str(within) for within in arguments[1:])}"
    if origin in (Union, UnionType):
        return ", or ".join(_wanted(option) for option in arguments)
    if origin is Literal:
        return " or ".join(str(value) for value in arguments)
    if origin is tuple:
        return f"a list (each {_wanted(arguments[0])})"
    if dataclasses.is_dataclass(kind):
        return f"fields ({', '.join(field.name for field in dataclasses.fields(kind) if field.init)})"
    return _WORDS.get(kind, "fields by name")
