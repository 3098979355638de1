"""Blocks that share rows: keys, bytes, budgets, and a table from its training to what is served."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import SGD
from recsys.tables import build_table, plan_tables
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.dedup import Dedup
from recsys.training.dedup_stages import mean_rows

NUM_IDS, ROWS = 103, 10  # the last block has three ids
STORED = np.array([0, 1, 2, 0, 0, 1, 3, 3, 2, 0, 1])


def dedup(stored: np.ndarray | None = None, num_ids: int = NUM_IDS, **fields: Any) -> Dedup:
    described = {"kind": "dedup", "embedding_dim": 4, "block_rows": ROWS, **fields}
    if stored is not None:
        made = CodeMap(method="dedup", data="d", tables={"item": IdCodes.of(stored[:, None], int(stored.max()) + 1)})
        described |= {"map": made.to_json()}
    item = Feature(name="item", kind="id", source="item.id", num_embeddings=num_ids)
    table = build_table(plan_tables(described, [item], optimizer=SGD(learning_rate=1.0), seed=3)[0])
    assert isinstance(table, Dedup)
    return table


def test_an_id_reads_its_place_in_the_block_that_its_own_one_reads() -> None:
    ids = torch.arange(NUM_IDS)
    assert dedup().address("item", ids)["item"][:, 0].tolist() == ids.tolist()
    keys = dedup(STORED).address("item", ids)["item"][:, 0].tolist()
    assert keys == [int(STORED[id_ // ROWS]) * ROWS + id_ % ROWS for id_ in range(NUM_IDS)]
    known = dedup(STORED).known("item", torch.tensor([-1, 0, 102, 103]))
    assert known.tolist() == [False, True, True, False]


def test_shared_rows_are_the_means_of_ids_that_are_there() -> None:
    table = dedup(STORED)
    blocks = torch.randn(11, ROWS * 4, generator=torch.Generator().manual_seed(0))
    blocks[10, 3 * 4 :] = 0
    rows = mean_rows(table, blocks)
    assert rows.shape == (4 * ROWS, 4)
    for id_ in range(NUM_IDS):
        mine = [
            block for block in range(11) if STORED[block] == STORED[id_ // ROWS] and block * ROWS + id_ % ROWS < NUM_IDS
        ]
        expected = blocks.view(11, ROWS, 4)[mine, id_ % ROWS].mean(0)
        torch.testing.assert_close(rows[table.address("item", torch.tensor([id_]))["item"][0, 0]], expected)


def test_blocks_and_their_map_are_counted_before_they_are_found() -> None:
    before, after = dedup(num_blocks=4), dedup(STORED)
    assert before.nbytes("serving") == after.nbytes("serving")
    served = after.nbytes("serving")
    assert (served.rows, served.maps) == (4 * ROWS * 4 * 4, (11 * 2 + 7) // 8 + 8)
    assert before.nbytes("training").rows == NUM_IDS * 16 and after.nbytes("training").rows == 4 * ROWS * 16
    companion = build_table(replace(after.config).narrowed(SGD(learning_rate=1.0)))
    assert companion.nbytes("serving").total == NUM_IDS * 4


@pytest.mark.parametrize("budget", [2000, 8000, 15_000])
def test_a_budget_says_how_many_blocks_stay(budget: int) -> None:
    table = dedup(num_ids=1000, budget=budget)
    more = dedup(num_ids=1000, num_blocks=table.num_stored + 1)
    assert table.nbytes("serving").total <= budget < more.nbytes("serving").total


def test_a_map_of_other_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"table\.map is of 11 blocks, and there are 21 of 5 rows"):
        dedup(STORED, block_rows=5)


def test_the_map_is_read_from_its_file(tmp_path: Path) -> None:
    from recsys.tables.id_files import write_id_map

    made = CodeMap(method="dedup", data="d", tables={"item": IdCodes.of(STORED[:, None], 4)})
    write_id_map(tmp_path / "blocks.safetensors", made)
    read = dedup(map=tmp_path / "blocks.safetensors").address("item", torch.arange(NUM_IDS))["item"]
    assert torch.equal(read, dedup(STORED).address("item", torch.arange(NUM_IDS))["item"])
