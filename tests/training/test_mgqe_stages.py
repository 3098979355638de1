"""MGQE from counts to codes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_stages import DIM, NUM_ITEMS, NUM_USERS, TRAIN, VALID, blueprint, work_in

from recsys.models.recommender import Blueprint, Recommender
from recsys.tables.code_map import CodeMap, MixedCodes
from recsys.tables.frequent_map import FrequentMap
from recsys.tables.id_files import read_id_map
from recsys.training.fit import evaluate
from recsys.training.frequencies import occurrences
from recsys.training.stage import stage_folder, trained
from recsys.training.stages import run_stages
from recsys.training.trainer import Trainer

SHARE = 0.2


def graded() -> Blueprint:
    table = {
        "kind": "mgqe",
        "embedding_dim": DIM,
        "initial_scale": 0.05,
        "num_subspaces": 3,
        "num_centroids": 16,
        "frequent_share": SHARE,
    }
    return replace(blueprint(), table=table, optimizer={"kind": "adam", "learning_rate": 0.01})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages."""
    folder = tmp_path_factory.mktemp("graded")
    work, folders = work_in(folder)
    run_stages(work, graded())
    assert folders == ["queries", folder.name]
    return folder


def test_occurrences_are_those_of_a_loop() -> None:
    counts = occurrences(Recommender(graded()).embeddings, TRAIN)
    np.testing.assert_array_equal(counts["item"], np.bincount(TRAIN.items, minlength=NUM_ITEMS))
    np.testing.assert_array_equal(counts["user"], np.bincount(TRAIN.users, minlength=NUM_USERS))


def test_ids_that_occur_most_have_the_longer_codes(whole: Path) -> None:
    found = read_id_map(stage_folder(whole, "frequencies") / "frequent.safetensors", FrequentMap, "planted")
    assert found.tables["item"].num_kept == SHARE * NUM_ITEMS
    codes = read_id_map(stage_folder(whole, "codes") / "codes.safetensors", CodeMap, "planted").tables["item"]
    assert isinstance(codes, MixedCodes)
    is_frequent = found.tables["item"].holds(np.arange(NUM_ITEMS))
    all_codes = codes.at(np.arange(NUM_ITEMS))
    assert all_codes[~is_frequent].max() < 4 <= all_codes[is_frequent].max()


def test_what_is_served_is_small_and_as_good(whole: Path) -> None:
    recommender, store = trained(whole)
    queries, before = trained(stage_folder(whole, "queries"))
    auc = evaluate(Trainer(recommender, store), VALID)["auc"]
    assert auc > 0.85 and auc > evaluate(Trainer(queries, before), VALID)["auc"] - 0.01
    sizes = {name: table.nbytes("serving") for name, table in recommender.embeddings.tables.items()}
    assert sizes == {name: table.nbytes("serving") for name, table in queries.embeddings.tables.items()}


def test_counts_that_are_there_are_read(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for name in ("frequencies", "queries", "codes"):
        stage_folder(tmp_path, name).symlink_to(stage_folder(whole, name))
    said: list[str] = []
    work, folders = work_in(tmp_path, said.append)
    run_stages(work, graded())
    assert folders == [tmp_path.name]
    assert sum("it has ended" in line for line in said) == 2
