"""Dedup from a full table to blocks that share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_stages import NUM_ITEMS, VALID, blueprint, work_in

from recsys.errors import ConfigError, DataError
from recsys.models.recommender import Blueprint
from recsys.tables.code_map import CodeMap
from recsys.tables.dedup import Dedup
from recsys.tables.id_files import read_id_map
from recsys.training.checkpoint import load_checkpoint
from recsys.training.dedup_stages import block_vectors, start_in_blocks
from recsys.training.fit import evaluate
from recsys.training.stage import stage_folder, trained
from recsys.training.stages import run_stages
from recsys.training.trainer import Trainer


def blocked(**fields: Any) -> Blueprint:
    table = {"kind": "dedup", "embedding_dim": 6, "initial_scale": 0.05, "block_rows": 5, "compression": 2}
    return replace(blueprint(), table={**table, **fields}, optimizer={"kind": "adam", "learning_rate": 0.01})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages."""
    folder = tmp_path_factory.mktemp("shared")
    work, folders = work_in(folder)
    run_stages(work, blocked())
    assert folders == ["whole", folder.name]
    return folder


def test_blocks_that_were_hardly_trained_share(shared: Path) -> None:
    stored = read_id_map(stage_folder(shared, "shared") / "blocks.safetensors", CodeMap, "planted").tables["item"]
    assert stored.num_ids == NUM_ITEMS // 5 and stored.num_centroids < 35
    codes = stored.at(np.arange(60))[:, 0]
    others = np.array([int((codes == code).sum()) for code in codes])
    assert others[:20].mean() < others[20:].mean()  # items from 100 on are hardly ever shown


def test_training_goes_on_from_the_means_of_what_shares(shared: Path) -> None:
    before = stage_folder(shared, "whole")
    made = read_id_map(stage_folder(shared, "shared") / "blocks.safetensors", CodeMap)
    start = start_in_blocks(blocked(map=made.to_json()), before)
    recommender, store = trained(before)
    table = recommender.embeddings.tables["item"]
    assert isinstance(table, Dedup)
    blocks, codes = block_vectors(table, store).numpy(), made.tables["item"].at(np.arange(60))[:, 0]
    rows = start.groups["item"].rows_UW.reshape(made.tables["item"].num_centroids, -1)
    for code in np.unique(codes):
        np.testing.assert_allclose(rows[code], blocks[codes == code].mean(0), rtol=1e-5, atol=1e-6)
    assert set(start.groups) == set(load_checkpoint(shared / "checkpoints").rows.groups)


def test_what_is_served_keeps_to_the_budget_and_is_nearly_as_good(shared: Path) -> None:
    recommender, store = trained(shared)
    full, before = trained(stage_folder(shared, "whole"))
    auc = evaluate(Trainer(recommender, store), VALID)["auc"]
    assert auc > 0.85 and auc > evaluate(Trainer(full, before), VALID)["auc"] - 0.02
    served = sum(table.nbytes("serving").total for table in recommender.embeddings.tables.values())
    full_bytes = 4 * 360 * 7
    assert 0.8 * full_bytes / 2 < served <= full_bytes / 2
    assert served == sum(table.nbytes("serving").total for table in full.embeddings.tables.values())


def test_what_is_finished_is_read_and_what_can_not_be_is_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for name in ("whole", "shared"):
        stage_folder(tmp_path, name).symlink_to(stage_folder(shared, name))
    work, folders = work_in(tmp_path)
    run_stages(work, blocked())
    assert folders == [tmp_path.name]
    expected, again = (load_checkpoint(folder / "checkpoints").rows for folder in (shared, tmp_path))
    np.testing.assert_array_equal(again.groups["item"].rows_UW, expected.groups["item"].rows_UW)
    with pytest.raises(ConfigError, match=r"table\.map is given, and table=dedup would make it anew"):
        run_stages(work, blocked(map={}))
    recommender, store = trained(stage_folder(shared, "whole"))
    table = recommender.embeddings.tables["item"]
    assert isinstance(table, Dedup)
    snapshot = store.snapshot()
    snapshot.groups["item"].rows_UW[0] = np.nan
    store.restore(snapshot)
    with pytest.raises(DataError, match="the rows of table 'item' have numbers that are none"):
        block_vectors(table, store)
