"""How long a retrieval model is trained, and how it is judged meanwhile: the YAML section ``fit``."""

from dataclasses import dataclass
from typing import Annotated

from recsys.fields import Above, AtLeast

Count = Annotated[int, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class RetrievalFit:
    """``fit``: how long, and how it is judged.

    Every ``judge_every`` epochs ``valid_users`` users are ranked for; after ``patience`` of these without a better
    recall it ends. ``regularisation`` multiplies half the squares of the embeddings that a pair reads.
    """

    epochs: Count = 1000
    batch_size: Count = 8192
    judge_every: Count = 1
    patience: Count = 5
    valid_users: Count = 4096
    regularisation: Annotated[float, AtLeast(0)] = 0.0
    max_minutes: Annotated[float, Above(0)] | None = None
