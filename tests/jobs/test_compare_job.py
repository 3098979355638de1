"""jobs.compare: figures are those of jobs.train, what is there is not run again, what fails is a line."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from test_train_examples import DATA, TRAIN, said, started

from jobs.compare import Asked, CompareSettings, asked_of
from jobs.prepare import PrepareSettings
from recsys.errors import DataError
from recsys.fields import build
from recsys.runtime import measuring
from recsys.runtime.comparing import Run, compare, planned
from recsys.tabular.prepare import prepare_examples
from recsys.training.comparison import Line, read_lines

SMALL = [*TRAIN[len(DATA) :], "batch.max_examples=512"]
LISTED = "[" + ",".join(f'"{override}"' for override in SMALL) + "]"


def run_of(table: str, compression: float | None, *overrides: str, seed: int = 0) -> Run:
    """A run as the job plans it."""
    told = [f"table={table}", f"seed={seed}", *overrides]
    if compression is not None:
        told += [f"++table.compression={compression:g}"]
    config = composed("train", *told)
    fields: dict[str, Any] = {"data": config["data"]["name"], "model": config["model"]["kind"], "table": table}
    return planned(config, command="", train="", overrides="", compression=compression, seed=seed, **fields)


def compared(runs: list[Run], said: list[str] | None = None) -> list[Line]:
    """Lines of runs in this process."""
    say = (said if said is not None else []).append
    return compare(runs, folder=Path("runs"), results=Path("found.parquet"), parallel=1, ray_address=None, say=say)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a user works, with data/synthetic prepared."""
    place = tmp_path_factory.mktemp("comparing")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        prepare_examples(
            build(PrepareSettings, composed("prepare", *DATA), "").data, data_folder=None, on_progress=print
        )
        yield place


def test_runs_are_those_of_jobs_train_and_failures_are_lines(folder: Path) -> None:
    told = [*DATA, *SMALL]
    said(started(folder, "train", *told, "table=hash", "table.compression=4", "hydra.run.dir=alone"))
    runs = [run_of(*asked, *told) for asked in (("full", None), ("hash", 4), ("int8", 50), ("graphhash", 4))]
    heard: list[str] = []
    full, hashed, refused, unmapped = compared(runs, heard)
    alone = json.loads((folder / "alone" / "summary.json").read_text())
    assert (hashed.auc, hashed.logloss) == (alone["test"]["auc"], alone["test"]["logloss"])
    assert hashed.best_epoch == alone["valid"][alone["best_at"]]["epoch"]
    served = sum(table["serving_bytes"] for table in alone["tables"].values())
    assert (hashed.kind, hashed.serving_bytes, hashed.map_bytes) == ("hash", served, 0)
    assert hashed.train_bytes == sum(table["training_bytes"] for table in alone["tables"].values())
    assert full.serving_bytes == full.full_bytes == hashed.full_bytes == 4 * (4 + 1) * 1300
    assert 0.9 * 6500 < (hashed.serving_bytes or 0) <= 6500
    assert all(value and value > 0 for value in (full.lookup_us, full.examples_per_second, full.cpu_seconds))
    assert refused.auc is None and "table.compression=50 allows 520 bytes" in (refused.error or "")
    assert "data set 'synthetic' has no feature user and item" in (unmapped.error or "")
    assert heard[0] == "runs: 4, there already: 0"
    assert heard[2].startswith("2 of 4: deepfm hash 4× seed 0: AUC 0.") and "compression=50" in heard[3]
    left = {path.name for path in (folder / "runs" / runs[1].line.key).iterdir()}
    assert left >= {"log.txt", "told.json", "summary.json", "metrics.json"} and not left & {"checkpoints", "best"}
    _go_on(folder, runs)


def _go_on(folder: Path, runs: list[Run]) -> None:
    """What is there stays as it is; what failed is tried again, and so is what was told or given something else."""
    before = read_lines(Path("found.parquet"))
    heard: list[str] = []
    assert compared(runs, heard) == before
    assert heard[0].startswith("runs: 4, there already: 2; the others take about 0.00 h of one core")
    assert len(heard) == 3 and heard[1].startswith("1 of 2: deepfm int8 50× seed 0: ")
    assert run_of("hash", 4, *DATA, *SMALL).line.key == runs[1].line.key
    assert run_of("hash", 4, *DATA, *SMALL, seed=1).line.key != runs[1].line.key
    manifest = folder / "data" / "synthetic" / "examples.json"
    text = manifest.read_text()
    manifest.write_text(text + "\n")
    assert run_of("hash", 4, *DATA, *SMALL).line.key != runs[1].line.key
    manifest.write_text(text)


def test_a_defect_is_a_line_too_and_leaves_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("it broke")

    monkeypatch.setattr(measuring, "train", broken)
    run = run_of("unified", 3, *DATA, *SMALL)
    line = next(line for line in compared([run]) if line.key == run.line.key)
    assert line == replace(run.line, error="ZeroDivisionError: it broke")
    assert "in broken" in (folder / "runs" / run.line.key / "log.txt").read_text()


def test_a_map_is_made_of_the_size_that_is_asked_for(films: Path, folder: Path) -> None:
    (folder / "data" / "ml100k").symlink_to(films)
    run = run_of("graphhash", 1.5, "replay.limit=600", "epochs=1", "model.hidden_sizes=[8]", "table.embedding_dim=4")
    line = next(line for line in compared([run]) if line.key == run.line.key)
    assert line.error is None and line.kind == "graphhash" and (line.map_bytes or 0) > 0
    assert 0.7 * (line.full_bytes or 0) / 1.5 < (line.serving_bytes or 0) <= (line.full_bytes or 0) / 1.5


def test_retrieval_is_compared_by_recall(films: Path, folder: Path) -> None:
    def retrieval(table: str, compression: float | None) -> Run:
        told = [
            f"table={table}",
            "table.embedding_dim=8",
            "interactions=prepared",
            "fit.epochs=2",
            "fit.batch_size=256",
        ]
        told += [] if compression is None else [f"++table.compression={compression}"]
        config = composed("retrieve", *told, f"interactions.folder={films}")
        fields = {"data": "ml100k", "model": "mf", "table": table, "compression": compression, "seed": 0}
        return planned(config, command="", train="", overrides="", **fields)

    asked = [retrieval(*table) for table in (("full", None), ("hash", 2), ("graphhash", 2), ("optembed", None))]
    heard: list[str] = []
    lines = {line.key: line for line in compared(asked, heard)}
    full, hashed, mapped, refused = (lines[run.line.key] for run in asked)
    summary = json.loads((folder / "runs" / full.key / "summary.json").read_text())
    assert (full.recall, full.ndcg) == (summary["test"]["recall"], summary["test"]["ndcg"]) and full.auc is None
    assert full.quality == full.recall and full.serving_bytes == full.full_bytes == 4 * 8 * 102  # ids 0 … 40, 0 … 60
    assert full.full_bytes / 2.2 < (hashed.serving_bytes or 0) <= full.full_bytes / 2
    assert full.full_bytes / 3 < (mapped.serving_bytes or 0) <= full.full_bytes / 2 and (mapped.map_bytes or 0) > 0
    assert all(line.examples_per_second and line.lookup_us for line in (full, hashed, mapped))
    assert "table.kind=optembed has" in (refused.error or "")
    assert heard[1].startswith("1 of 4: mf full seed 0: recall@20 0.")


def test_data_that_is_not_prepared_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run: python -m jobs\.prepare data=synthetic"):
        run_of("full", None, *DATA, f"data.folder={tmp_path}")


def test_what_is_asked_for() -> None:
    chosen = ["tables=[hash,full,'unified table.num_chunks=4']", "compressions=[2,10]", "seeds=[0,1]"]
    settings = build(CompareSettings, composed("compare", *chosen), "")
    asked = list(asked_of(settings, settings.seeds))
    assert asked[:3] == [
        Asked("deepfm", "full", None, 0),
        Asked("deepfm", "hash", 2, 0),
        Asked("deepfm", "unified table.num_chunks=4", 2, 0),
    ]
    assert len(asked) == len(set(asked)) == 2 * (1 + 2 * 2)
    everything = {each.table for each in asked_of(build(CompareSettings, composed("compare"), ""), [0])}
    assert everything >= {"full", "int8", "graphhash", "optembed", "dpq"} and not everything & {"pruned", "codes"}


@pytest.mark.timeout(300)
def test_the_job_as_pasted(folder: Path) -> None:
    """Two kinds, then a further seed of the front; a page."""
    chosen = ["tables=[hash,unified]", "compressions=[8]", "front_seeds=[1]", f"train={LISTED}", "folder=compared"]
    output = said(started(folder, "compare", *DATA, *chosen))
    assert "runs: 2, there already: 0" in output and "wrote compared/compression.md" in output
    lines = read_lines(folder / "compared" / "compression.parquet")
    assert [(line.table, line.seed) for line in lines[:2]] == [("hash", 0), ("unified", 0)]
    assert {line.seed for line in lines[2:]} == {1} and all(line.error is None for line in lines)
    assert lines[0].command.startswith("python -m jobs.compare data=synthetic data.examples")
    assert f"```sh\n{lines[0].command}\n```" in (folder / "compared" / "compression.md").read_text()
