"""OptEmbed and DPQ from their first stage to what is served: stages that go on, and what is refused."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.batches.batch import Bag, LabelledBatch
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.store import Snapshot
from recsys.tables import TABLES
from recsys.tables.code_map import CodeMap
from recsys.tables.id_files import read_id_map
from recsys.tables.kept_map import KeptMap
from recsys.training.checkpoint import load_checkpoint
from recsys.training.dpq_stages import coded_blueprint, codes_of, quantizing_tables, start_of
from recsys.training.epochs import Course, Fitting, fit
from recsys.training.fit import evaluate, held_out_batches
from recsys.training.keeping import Keeper, write_json
from recsys.training.magnitudes import alive_share
from recsys.training.pruning import Fitness, kept_flags, kept_share
from recsys.training.stage import Work, stage_folder, trained
from recsys.training.stages import STAGES, run_stages
from recsys.training.trainer import Trainer

NUM_USERS, NUM_ITEMS, DIM = 60, 300, 6
NUM_IDS = NUM_USERS + NUM_ITEMS
FEATURES = (
    Feature(name="user", kind="id", source="column.user", num_embeddings=NUM_USERS),
    Feature(name="item", kind="id", source="column.item", num_embeddings=NUM_ITEMS),
)
SEARCH = {"generations": 4, "mutations": 3, "crossovers": 3, "parents": 3, "mutation_probability": 0.5}
DECAYING = {"kind": "adam", "learning_rate": 0.01, "weight_decay": 0.005}
THRESHOLDS = {"threshold_rate": 0.005, "alpha": 0.05}


class Planted:
    """Users of even numbers like items of even numbers; two thirds of the items are hardly ever shown."""

    def __init__(self, num: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.users, self.items = draw.integers(0, NUM_USERS, num), draw.integers(0, 100, num)
        rare = draw.random(num) < 0.01
        self.items[rare] = draw.integers(100, NUM_ITEMS, rare.sum())
        is_liked = (self.users + self.items) % 2 == 0
        self.labels = np.where(draw.random(num) < 0.1, ~is_liked, is_liked).astype(np.float32)

    @property
    def num_examples(self) -> int:
        return len(self.labels)

    def batches(self, size: int, *, seed: Sequence[int] | None = None, start: int = 0) -> Iterator[LabelledBatch]:
        order = np.arange(self.num_examples)
        if seed is not None:
            order = np.random.default_rng(list(seed)).permutation(order)
        for at in range(start, len(order), size):
            yield self._batch(order[at : at + size])

    def _batch(self, rows: Any) -> LabelledBatch:
        num = len(rows)
        return LabelledBatch(
            bags={
                "user": Bag(self.users[rows], np.arange(num + 1)),
                "item": Bag(self.items[rows], np.arange(num + 1)),
            },
            numbers_BM=np.zeros((num, 0), np.float32),
            labels_B=self.labels[rows],
            weights_B=np.ones(num, np.float32),
            request_ids=[""] * num,
            user_ids=[0] * num,
            item_ids=[0] * num,
            times_ms_B=np.zeros(num, np.int64),
            read_at_ms_B=np.zeros(num, np.int64),
        )


TRAIN, VALID = Planted(6000, 1), Planted(1500, 2)


def blueprint(rows: dict[str, Any] = DECAYING, **table: Any) -> Blueprint:
    fields = {"kind": "optembed", "embedding_dim": DIM, "initial_scale": 0.05, "search": SEARCH, **THRESHOLDS, **table}
    return Blueprint(
        features=FEATURES,
        table=fields,
        model={"kind": "deepfm", "hidden_sizes": [8]},
        optimizer=rows,
        first_order_optimizer={"kind": "adam", "learning_rate": 0.01},
        dense_optimizer={"kind": "adam", "learning_rate": 0.01},
        seed=4,
    )


def work_in(folder: Path, say: Callable[[str], None] = lambda line: None) -> tuple[Work, list[str]]:
    """Stages over planted examples, and the folders in which a run was trained."""
    folders: list[str] = []

    def train(blueprint: Blueprint, within: Path, start: Snapshot | None = None, epochs: int | None = None) -> None:
        if (within / "summary.json").exists():
            return
        folders.append(within.name)
        recommender = Recommender(blueprint)
        held_out = held_out_batches(VALID, 100, 0, 0)
        trainer = Trainer(recommender, LocalRows(recommender.groups), held_out=held_out)
        trainer.store.restore(recommender.start_state() if start is None else start)
        keeper = Keeper(
            within,
            trainer,
            monitor="auc",
            about={},
            features={},
            on_step=lambda step, steps: None,
            say=say,
            figures=lambda: {**kept_share(recommender, trainer.store), **alive_share(recommender, trainer.store)},
        )
        with closing(keeper):
            course: Course = fit(
                trainer, TRAIN, VALID, epochs=epochs or 4, batch_size=100, seed=0, how=Fitting(), watcher=keeper
            )
            if epochs is None:
                keeper.restore_best()
            keeper.checkpoint(course)
        write_json(within / "summary.json", {"valid": course.history})

    return Work(folder=folder, data="planted", learned=TRAIN, valid=VALID, train=train, say=say), folders


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages."""
    folder = tmp_path_factory.mktemp("whole")
    work, folders = work_in(folder)
    run_stages(work, blueprint())
    assert folders == ["supernet", folder.name]
    return folder


def trained_supernet(folder: Path) -> tuple[Recommender, LocalRows]:
    return trained(stage_folder(folder, "supernet"))


def test_every_stage_that_a_kind_declares_is_there() -> None:
    assert {name for table, _ in TABLES.values() for name in table.stages} == set(STAGES)


def test_rows_of_rare_ids_die_by_decay_and_the_curve_says_when(whole: Path) -> None:
    curve = [found["kept"] for found in json.loads((stage_folder(whole, "supernet") / "metrics.json").read_text())]
    num_shown = NUM_USERS + 100
    assert len(curve) == 4 and all(0.95 * num_shown < NUM_IDS * kept < 1.3 * num_shown for kept in curve)
    fresh = Recommender(blueprint())
    assert kept_share(fresh, LocalRows(fresh.groups)) == {"kept": 1.0}
    kept = kept_flags(*trained_supernet(whole))
    assert kept["user"].mean() > 0.95 and kept["item"][:100].mean() > 0.95
    assert kept["item"][100:].mean() < 0.2
    retrained = load_checkpoint(whole / "checkpoints")
    assert retrained.blueprint.table["kind"] == "pruned"
    assert set(retrained.rows.groups["item"].keys_U) <= set(np.flatnonzero(kept["item"]))


def test_without_decay_nothing_is_pruned() -> None:
    recommender = Recommender(blueprint({"kind": "adam", "learning_rate": 0.01}))
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    for _ in trainer.steps(TRAIN.batches(100)):
        pass
    assert kept_share(recommender, trainer.store) == {"kept": 1.0}


def test_the_chosen_widths_score_what_was_written(whole: Path) -> None:
    saved = json.loads((stage_folder(whole, "search") / "search.json").read_text())
    recommender, store = trained_supernet(whole)
    kept = kept_flags(recommender, store)
    fitness = Fitness(recommender, store, kept, VALID)
    best, score = max(saved["scores"], key=lambda pair: (pair[1], -sum(pair[0])))
    assert fitness(tuple(best)) == score == saved["history"][-1]
    assert fitness((1, 1)) == fitness((1, 1)) < score
    assert saved["history"] == sorted(saved["history"])
    found = read_id_map(stage_folder(whole, "search") / "kept.safetensors", KeptMap)
    assert [table.width for table in found.tables.values()] == best
    assert found.num_weights == sum(int(kept[name].sum()) * width for name, width in zip(kept, best, strict=True))


def test_what_was_retrained_is_as_good_and_smaller(whole: Path) -> None:
    checkpoint = load_checkpoint(whole / "checkpoints")
    recommender = Recommender(checkpoint.blueprint)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.store.restore(checkpoint.rows)
    supernet, store = trained_supernet(whole)
    auc = evaluate(trainer, VALID)["auc"]
    assert auc > 0.85 and auc > evaluate(Trainer(supernet, store), VALID)["auc"] - 0.01
    served = sum(table.nbytes("serving").total for table in recommender.embeddings.tables.values())
    assert served < 4 * (NUM_USERS + NUM_ITEMS) * (DIM + 1)


def test_a_search_that_is_stopped_goes_on_and_ends_as_if_it_had_not(whole: Path, tmp_path: Path) -> None:
    def stopping(line: str) -> None:
        if line.startswith("generation 2"):
            raise KeyboardInterrupt

    work, folders = work_in(tmp_path, stopping)
    with pytest.raises(KeyboardInterrupt):
        run_stages(work, blueprint())
    assert folders == ["supernet"]
    found = stage_folder(tmp_path, "search") / "kept.safetensors"
    assert not found.exists()

    work, folders = work_in(tmp_path)
    run_stages(work, blueprint())
    assert folders == [tmp_path.name]  # the supernet was read
    assert found.read_bytes() == (stage_folder(whole, "search") / "kept.safetensors").read_bytes()
    expected, again = (load_checkpoint(folder / "checkpoints").rows for folder in (whole, tmp_path))
    np.testing.assert_array_equal(again.groups["item"].rows_UW, expected.groups["item"].rows_UW)

    with pytest.raises(ConfigError, match=r"table\.search\.generations was 4, and is 5 now"):
        run_stages(work, blueprint(search={**SEARCH, "generations": 5}))
    with pytest.raises(ConfigError, match=r"table\.budget was None, and is 4000 now"):
        run_stages(work, blueprint(budget=4000))


def copied_supernet(whole: Path, folder: Path) -> Path:
    """A run of which the supernet alone has ended."""
    (folder / "stages").mkdir(parents=True)
    stage_folder(folder, "supernet").symlink_to(stage_folder(whole, "supernet"))
    return folder


def test_a_target_is_met_or_the_smallest_is_said(whole: Path, tmp_path: Path) -> None:
    def served_bytes(folder: Path) -> int:
        tables = Recommender(load_checkpoint(folder / "checkpoints").blueprint).embeddings.tables
        return sum(table.nbytes("serving").total for table in tables.values())

    def with_target(folder: Path, **target: Any) -> Path:
        work, _ = work_in(folder)
        run_stages(work, blueprint(**target))
        return folder

    target = served_bytes(whole)
    with pytest.raises(ConfigError, match=r"of one number each, take (\d|,)+; give budget=\d+ or more") as caught:
        with_target(copied_supernet(whole, tmp_path / "small"), budget=1000)
    least = int(str(caught.value).partition("budget=")[2].partition("budget=")[2].split()[0])
    assert 1000 < least < target
    assert served_bytes(with_target(copied_supernet(whole, tmp_path / "least"), budget=least)) == least
    middle = (least + target) // 2
    assert served_bytes(with_target(copied_supernet(whole, tmp_path / "middle"), budget=middle)) <= middle


def test_a_threshold_that_is_no_number_is_refused(whole: Path) -> None:
    recommender, store = trained_supernet(whole)
    snapshot = store.snapshot()
    group = snapshot.groups["item.threshold"]
    group.rows_UW[:] = np.nan
    store.restore(snapshot)
    with pytest.raises(DataError, match="the threshold of table 'item' is nan: its training diverged"):
        kept_flags(recommender, store)


def test_a_model_without_embeddings_has_nothing_to_prune(tmp_path: Path) -> None:
    work, folders = work_in(tmp_path)
    linear = replace(blueprint(), model={"kind": "lr"})
    with pytest.raises(ConfigError, match="model 'lr' has no embeddings to prune"):
        run_stages(work, linear)
    assert not folders


# --- DPQ


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages."""
    folder = tmp_path_factory.mktemp("quantised")
    work, folders = work_in(folder)
    run_stages(work, coded())
    assert folders == ["queries", folder.name]
    return folder


def coded() -> Blueprint:
    table = {"kind": "dpq", "embedding_dim": DIM, "initial_scale": 0.05, "num_subspaces": 3, "num_centroids": 16}
    return replace(blueprint(), table=table, optimizer={"kind": "adam", "learning_rate": 0.01})


def test_codes_of_all_ids_give_what_the_queries_gave(quantised: Path) -> None:
    """Untrained ids, too: their initial rows have codes."""
    queries, store = trained(stage_folder(quantised, "queries"))
    queries.load_dense(store.pull(queries.dense_keys))
    made = read_id_map(stage_folder(quantised, "codes") / "codes.safetensors", CodeMap)
    start = start_of(coded_blueprint(coded(), made), stage_folder(quantised, "queries"))
    recommender = Recommender(coded_blueprint(coded(), made))
    begun = LocalRows(recommender.groups)
    begun.restore(start)
    recommender.load_dense(begun.pull(recommender.dense_keys))
    ids_N = np.arange(NUM_ITEMS)
    expected = queries.embeddings.embed("item", "item", ids_N, store).detach()
    found = recommender.embeddings.embed("item", "item", ids_N, begun).detach()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    batch = next(VALID.batches(500))
    np.testing.assert_allclose(recommender.predict(batch, begun), queries.predict(batch, store), rtol=0, atol=1e-5)


def test_what_is_served_is_small_and_as_good(quantised: Path) -> None:
    recommender, store = trained(quantised)
    assert recommender.blueprint.table["kind"] == "codes"
    assert sorted(recommender.embeddings.groups) == ["item.first_order", "user.first_order"]
    queries, before = trained(stage_folder(quantised, "queries"))
    auc = evaluate(Trainer(recommender, store), VALID)["auc"]
    assert auc > 0.85 and auc > evaluate(Trainer(queries, before), VALID)["auc"] - 0.01
    sizes = {name: table.nbytes("serving") for name, table in recommender.embeddings.tables.items()}
    assert sizes["item"].maps == NUM_ITEMS * 3 * 4 // 8 + 8 and sizes["item"].dense == 4 * DIM * 16
    assert {name: size.total for name, size in sizes.items()} == {
        name: table.nbytes("serving").total for name, table in queries.embeddings.tables.items()
    }


def test_codebooks_that_are_no_numbers_are_refused(quantised: Path) -> None:
    recommender, store = trained(stage_folder(quantised, "queries"))
    (table,) = [table for name, table in quantizing_tables(recommender).items() if name == "item"]
    with torch.no_grad():
        table.codebooks[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="the codebooks of table 'item' have numbers that are none"):
        codes_of(table, store)


def test_a_finished_stage_is_read(quantised: Path, tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for name in ("queries", "codes"):
        stage_folder(tmp_path, name).symlink_to(stage_folder(quantised, name))
    work, folders = work_in(tmp_path)
    run_stages(work, coded())
    assert folders == [tmp_path.name]
    expected, again = (load_checkpoint(folder / "checkpoints").rows for folder in (quantised, tmp_path))
    for name, group in expected.groups.items():
        np.testing.assert_array_equal(again.groups[name].rows_UW, group.rows_UW)
