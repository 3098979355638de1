"""A table kind is a few classes in one file and a line in TABLES: here is one, and a recommender made with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.batches.batch import Bag, Batch
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.tables import TABLES
from recsys.tables.plan import Count, TablePlan
from recsys.tables.table import Table, TableConfig

FEATURES = (
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="liked", kind="bag", source="user.likes", table="item"),
    Feature(name="item", kind="id", source="item.id"),
)


@dataclass(frozen=True, kw_only=True)
class ProjectedConfig(TableConfig):
    """``row_width``: how wide a row is before it is projected."""

    kind: ClassVar[str] = "projected"
    row_width: int


@dataclass(frozen=True, kw_only=True)
class ProjectedPlan(TablePlan):
    """``row_width`` numbers for each feature that reads the table."""

    row_width: Count = 2

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> ProjectedConfig:
        """See TablePlan.table."""
        return ProjectedConfig(row_width=(size or self.row_width) * len(features), **shared)


class Projected(Table):
    """Rows of ``row_width`` numbers, projected to embedding_dim and gated; negative ids are unknown."""

    id_range = "[0, ∞)"

    def __init__(self, config: ProjectedConfig) -> None:
        super().__init__(config)
        self.groups = (
            config.row_group(width=config.row_width, num_rows=None),
            config.row_group(width=1, num_rows=None, suffix=".gate"),
        )
        self.projection = nn.Parameter(torch.ones(config.row_width, config.embedding_dim))

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {group.name: ids_N[:, None] for group in self.groups}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose."""
        rows, gates = (rows_NKW[group.name][:, 0] for group in self.groups)
        return rows @ self.projection * (1 + gates)

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return ids_N >= 0


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "projected", (Projected, ProjectedPlan))


def recommender(**fields: Any) -> Recommender:
    return Recommender(
        Blueprint(
            features=FEATURES,
            table={"kind": "projected", "embedding_dim": 4, **fields},
            model={"kind": "deepfm", "hidden_sizes": [3]},
            optimizer={"kind": "sgd", "learning_rate": 0.1},
            dense_optimizer={"kind": "sgd", "learning_rate": 0.1},
        )
    )


def test_a_recommender_with_its_linear_part_is_built_and_learns() -> None:
    made = recommender()
    assert {name: group.width for name, group in made.embeddings.groups.items()} == {
        "user": 2,
        "user.gate": 1,
        "item": 4,  # two features read it
        "item.gate": 1,
        "user.first_order": 2,
        "user.first_order.gate": 1,
        "item.first_order": 4,
        "item.first_order.gate": 1,
    }
    assert made.embeddings.tables["item.first_order"].get_parameter("projection").shape == (4, 1)
    store = LocalRows(made.groups)
    store.restore(made.start_state())
    bags = {"user": [[7], [-7]], "liked": [[1, -1, 2], []], "item": [[3], [1]]}
    batch = Batch({name: Bag.of_lists(ids) for name, ids in bags.items()}, np.zeros((2, 0), np.float32))
    before = made.predict(batch, store)
    planned = made.plan(batch)
    assert planned.num_unknown == 2
    assert planned.keys["user"].tolist() == [7] and planned.keys["item.first_order"].tolist() == [1, 2, 3]
    logits_B, looked = made(planned, store.pull(planned.keys))
    logits_B.sum().backward()
    assert all(parameter.grad is not None for parameter in made.embeddings.parameters())
    store.push(looked.gradients(), 0)
    assert (made.predict(batch, store, dense=False) < before).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_width": 0}, "table.row_width=0: give a whole number of at least 1"),
        (
            {"wings": 2},
            "unknown field 'table.wings'; "
            "known: kind, embedding_dim, pooling, absent, row_format, initial_scale, compression, budget, row_width",
        ),
    ],
)
def test_its_fields_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        recommender(**fields)
    assert str(raised.value) == message
