"""Where a job's sessions come from: planted, or out of a log of plays."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recsys.fields import build, choose
from recsys.sessions.log import SessionLog
from recsys.sessions.planted import Planted, plant
from recsys.sessions.plays import PlayFiles, read_plays
from recsys.sessions.sessioniser import SessionRules, Survivors, sessionise


@dataclass(frozen=True, kw_only=True)
class Logged:
    """Sessions of a log of plays; ``note`` goes with every figure that is made of it."""

    kind: Literal["log"] = "log"
    folder: Path
    log: PlayFiles
    rules: SessionRules
    note: str = ""


PLAYS: dict[str, type] = {"planted": Planted, "log": Logged}


def build_plays(fields: Mapping[str, Any], where: str = "plays") -> Planted | Logged:
    """What ``fields`` describe; ConfigError, by the full key, for what can not be.

    >>> build_plays({"kind": "planted", "num_users": 5}).num_users
    5
    """
    plays: Planted | Logged = build(PLAYS[choose(where, fields, PLAYS)], fields, where)
    return plays


def read_log(plays: Planted | Logged) -> tuple[SessionLog, Survivors]:
    """The sessions, and how many plays, users and tracks each step left of a log."""
    if isinstance(plays, Planted):
        return plant(plays).log, {}
    return sessionise(read_plays(plays.log, plays.folder), plays.rules)
