"""CCE from hashed rows to clusters, in rounds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_stages import NUM_ITEMS, VALID, blueprint, work_in

from recsys.errors import ConfigError, DataError
from recsys.models.recommender import Blueprint
from recsys.rows.local import LocalRows
from recsys.tables.cce import CCE
from recsys.tables.code_map import CodeMap
from recsys.tables.id_files import read_id_map
from recsys.training.cce_stages import start_in_clusters, vectors_of
from recsys.training.checkpoint import load_checkpoint
from recsys.training.fit import evaluate
from recsys.training.stage import stage_folder, trained
from recsys.training.stages import run_stages
from recsys.training.trainer import Trainer


def composed(**fields: Any) -> Blueprint:
    table = {"kind": "cce", "embedding_dim": 6, "initial_scale": 0.05, "num_chunks": 3, "num_clusters": 12, "rounds": 2}
    return replace(blueprint(), table={**table, **fields}, optimizer={"kind": "adam", "learning_rate": 0.01})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages."""
    folder = tmp_path_factory.mktemp("clustered")
    work, folders = work_in(folder)
    run_stages(work, composed())
    assert folders == ["hashed", "clustered-1", folder.name]
    return folder


def table_in(folder: Path, name: str = "item") -> tuple[CCE, LocalRows]:
    recommender, store = trained(folder)
    table = recommender.embeddings.tables[name]
    assert isinstance(table, CCE)
    return table, store


def test_a_round_begins_at_the_means_of_what_the_one_before_has_learned(whole: Path) -> None:
    before = stage_folder(whole, "hashed")
    made = read_id_map(stage_folder(whole, "clusters-1") / "clusters.safetensors", CodeMap, "planted")
    start = start_in_clusters(composed(map=made.to_json(), round=1), before)
    for name in ("item", "item.first_order"):
        vectors = vectors_of(*table_in(before, name))
        table, _ = table_in(stage_folder(whole, "clustered-1"), name)
        store = LocalRows(table.groups)
        store.restore(replace(start, groups={name: start.groups[name]}))
        begun = vectors_of(table, store)
        codes = made.tables["item"].at(np.arange(NUM_ITEMS))
        for chunk in range(table.num_chunks):
            width = vectors.shape[1] // table.num_chunks
            part = slice(chunk * width, (chunk + 1) * width)
            for cluster in np.unique(codes[:, chunk]):
                mine = torch.from_numpy(codes[:, chunk] == cluster)
                expected = vectors[mine, part].mean(0).expand(int(mine.sum()), width)
                torch.testing.assert_close(begun[mine, part], expected, atol=1e-5, rtol=1e-4)


def test_clusters_are_better_than_hashes_of_the_same_bytes(whole: Path) -> None:
    recommender, store = trained(whole)
    hashed, before = trained(stage_folder(whole, "hashed"))
    auc = evaluate(Trainer(recommender, store), VALID)["auc"]
    assert auc > 0.8 and auc > evaluate(Trainer(hashed, before), VALID)["auc"]
    sizes = {name: table.nbytes("serving") for name, table in recommender.embeddings.tables.items()}
    assert sizes == {name: table.nbytes("serving") for name, table in hashed.embeddings.tables.items()}
    assert recommender.blueprint.table["round"] == 2


def test_what_is_finished_is_read_and_leads_to_the_same(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for name in ("hashed", "clusters-1", "clustered-1"):
        stage_folder(tmp_path, name).symlink_to(stage_folder(whole, name))
    work, folders = work_in(tmp_path)
    run_stages(work, composed())
    assert folders == [tmp_path.name]
    expected, again = (load_checkpoint(folder / "checkpoints").rows for folder in (whole, tmp_path))
    np.testing.assert_array_equal(again.groups["item"].rows_UW, expected.groups["item"].rows_UW)


def test_rows_that_are_no_numbers_and_a_map_beforehand_are_refused(whole: Path, tmp_path: Path) -> None:
    table, store = table_in(stage_folder(whole, "hashed"))
    snapshot = store.snapshot()
    snapshot.groups["item"].rows_UW[0] = np.nan
    store.restore(snapshot)
    with pytest.raises(DataError, match="the rows of table 'item' have numbers that are none"):
        vectors_of(table, store)
    made = read_id_map(stage_folder(whole, "clusters-1") / "clusters.safetensors", CodeMap)
    with pytest.raises(ConfigError, match=r"table\.map is given, and table=cce would make it anew"):
        run_stages(work_in(tmp_path)[0], composed(map=made.to_json()))
