"""Models of sessions: what will this user play next, of what they know and of what they do not?

::

    actr.py  likelihood.py   ACT-R's memory: components, weights, and what repeats say of its decay
    questions.py             who is asked for, knowing what, when
    simple.py                recommenders without gradients
    learned.py               what those with gradients share: items of any table, batches, losses
    sequence.py  pisa.py …   the models

A kind is a class with a ``Config``, and a line in ``SIMPLE`` or ``LEARNED``.
"""

from collections.abc import Mapping
from typing import Any

from recsys.fields import build, choose
from recsys.models.sessions.actr_bpr import ActrBpr
from recsys.models.sessions.learned import SessionModel
from recsys.models.sessions.pisa import Pisa
from recsys.models.sessions.repeatnet import RepeatNet
from recsys.models.sessions.sequence import GRU4Rec, SASRec
from recsys.models.sessions.simple import TIFUKNN, UPCF, ActR, GlobalTop, PersonalTop

SIMPLE: dict[str, type] = {
    "global_top": GlobalTop,
    "personal_top": PersonalTop,
    "actr": ActR,
    "tifu_knn": TIFUKNN,
    "up_cf": UPCF,
}
LEARNED: dict[str, type[SessionModel]] = {
    "pisa": Pisa,
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "actr_bpr": ActrBpr,
    "repeatnet": RepeatNet,
}


def build_session_config(fields: Mapping[str, Any], where: str = "session_model") -> Any:
    """The config of the kind that ``fields`` name; ConfigError, by the full key, for what can not be.

    >>> build_session_config({"kind": "pissa"})
    Traceback (most recent call last):
    recsys.errors.ConfigError: unknown session_model.kind 'pissa'; known: global_top, personal_top, actr, tifu_knn, up_cf, pisa, sasrec, gru4rec, actr_bpr, repeatnet
    """  # noqa: E501
    kinds: dict[str, Any] = {**SIMPLE, **LEARNED}
    return build(kinds[choose(where, fields, kinds)].Config, fields, where)
