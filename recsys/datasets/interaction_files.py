"""Where interactions are: the YAML section ``interactions``, and the folder that RECSYS_DATA names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Between, NotEmpty

Count = Annotated[int, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class InteractionFiles:
    """``interactions``: where they are, and what there has to be.

    ``format``: ``lists`` and ``triples`` are published splits in the folder of RECSYS_DATA named ``folder`` (Parquet of
    user and items; text of user, item, weight); ``prepared`` is a prepared data set's likes, ``archive`` an online
    run's positive examples, both in time order: the ``first`` part is to learn from, the rest to judge by. ``examples``
    are the positive ones of prepared plain examples, of the part that is trained on alone.
    Where no file is for validation, ``valid_fraction`` of each user's train pairs is, by chance.
    """

    name: Annotated[str, NotEmpty()]
    format: Literal["lists", "triples", "prepared", "archive", "examples"]
    folder: Path
    train: Annotated[str, NotEmpty()] | None = None
    valid: Annotated[str, NotEmpty()] | None = None
    test: Annotated[str, NotEmpty()] | None = None
    num_users: Count | None = None
    num_items: Count | None = None
    num_train: Count | None = None
    num_test: Count | None = None
    first: Annotated[float, Above(0), Between(0, 1)] = 1.0
    valid_fraction: Annotated[float, Between(0, 0.9)] = 0.1

    def __post_init__(self) -> None:
        if (self.format in ("lists", "triples")) != (self.train is not None and self.test is not None):
            raise ConfigError(
                f"format={self.format}, train={self.train}, test={self.test}; lists and triples have both files; "
                "leave them out of the others"
            )


def data_folder() -> Path | None:
    """Where the user keeps data sets: RECSYS_DATA."""
    named = os.environ.get("RECSYS_DATA")
    return Path(named) if named else None
