"""Runs of a comparison as tasks of a Ray: the lines of one process."""

from dataclasses import replace
from pathlib import Path

import pytest
from composing import composed

from recsys.runtime.comparing import Run, compare, planned
from recsys.training.comparison import Line

TOLD = ["replay.limit=600", "epochs=1", "model.hidden_sizes=[8]", "table.embedding_dim=4"]


def run_of(data: Path, table: str, seed: int) -> Run:
    config = composed("train", f"table={table}", f"seed={seed}", f"data.folder={data}", *TOLD)
    told = {"command": "", "data": "ml100k", "model": "deepfm", "train": "", "table": table, "overrides": ""}
    return planned(config, compression=None, seed=seed, **told)


def timeless(lines: list[Line]) -> list[Line]:
    """What does not depend on the machine, by seed and table."""
    same = [replace(line, examples_per_second=None, lookup_us=None, cpu_seconds=None) for line in lines]
    return sorted(same, key=lambda line: (line.seed, line.table))


@pytest.mark.long
def test_parallel_runs_are_those_of_one_process(films: Path, tmp_path: Path, ray_is_up: None) -> None:
    runs = [run_of(films, table, seed) for seed in (0, 1) for table in ("full", "graphhash")]
    found = {
        parallel: compare(
            runs,
            folder=tmp_path / f"runs{parallel}",
            results=tmp_path / f"{parallel}.parquet",
            parallel=parallel,
            ray_address=None,
            say=print,
        )
        for parallel in (1, 2)
    }
    assert timeless(found[2]) == timeless(found[1])
    assert [line.error is None for line in timeless(found[2])] == [True, False, True, False]  # no map, no size asked
