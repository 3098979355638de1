"""Every error a user can cause, as one tree.

::

    RecsysError
    ├── ConfigError        a field, kind or override that can not be
    ├── DataError          input files missing, or not what they should be
    │   └── EventError     one event that does not fit its topic's schema
    ├── DependencyError    something to install, or to start, is absent
    └── ServiceError       Kafka, Redis or Ray can not be reached or does not answer

A message says what was wrong, the value, and the remedy. Jobs print it on one line and exit with status 2;
anything that is not a ``RecsysError`` is our bug and keeps its traceback.
"""

from collections.abc import Iterable


class RecsysError(Exception):
    """Root of the tree: a mistake the user can mend, told in one line."""


class ConfigError(RecsysError, ValueError):
    """A configuration value that can not be: unknown kind or field, impossible size, contradicting options."""


class DataError(RecsysError, ValueError):
    """Input data that is missing, has wrong counts, or does not parse."""


class EventError(DataError):
    """One event that does not fit its topic's schema; ``reason`` goes with it to the dead letters."""


class DependencyError(RecsysError, RuntimeError):
    """A program or package that this configuration needs is not installed."""


class ServiceError(RecsysError, RuntimeError):
    """A server can not be reached, or did not answer in time."""


def unknown(what: str, value: object, known: Iterable[object]) -> ConfigError:
    """The error for a name that is not in a registry; it lists the names that are.

    >>> str(unknown("table kind", "fulll", ["full", "hash"]))
    "unknown table kind 'fulll'; known: full, hash"
    """
    return ConfigError(f"unknown {what} {value!r}; known: {', '.join(str(name) for name in known)}")
