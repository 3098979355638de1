"""Lines of a comparison: kept, put together over seeds, the front against its definition, gaps, the page."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.training.comparison import Line, add_line, gaps, pareto_front, points_of, read_lines
from recsys.training.comparison_page import write_page


def line(table: str, compression: float | None, seed: int, auc: float, serving_bytes: int) -> Line:
    return Line(
        key=f"{table}-{compression}-{seed}",
        command="python -m jobs.compare",
        data="small",
        model="deepfm",
        train="epochs=2",
        table=table,
        overrides="",
        compression=compression,
        seed=seed,
        kind=table,
        auc=auc,
        logloss=0.5,
        best_epoch=1.0,
        examples_per_second=1234.0,
        train_bytes=2 * serving_bytes,
        optimizer_bytes=0,
        serving_bytes=serving_bytes,
        map_bytes=0,
        full_bytes=1000,
        lookup_us=7.0,
        cpu_seconds=3.0,
    )


FULL = line("full", None, 0, 0.8, 1000)
LINES = [
    FULL,
    line("hash", 2, 0, 0.76, 500),
    line("hash", 2, 1, 0.74, 500),
    line("unified", 2, 0, 0.78, 500),
    line("unified", 2, 1, 0.77, 500),
    line("hash", 10, 0, 0.66, 100),
    line("unified", 10, 0, 0.72, 100),
    line("unified", 10, 1, 0.74, 100),
]
FAILED = replace(line("int8", 10, 0, 0, 0), auc=None, serving_bytes=None, error="compression=10 allows\n100 bytes")


def test_a_line_takes_the_place_of_its_run_s(tmp_path: Path) -> None:
    path = tmp_path / "results" / "some.parquet"
    assert read_lines(path) == []
    assert add_line(path, FAILED) == [FAILED]
    add_line(path, FULL)
    mended = replace(FAILED, error=None, auc=0.7)
    assert add_line(path, mended) == [mended, FULL] == read_lines(path)
    assert [left.name for left in path.parent.iterdir()] == ["some.parquet"]


def test_what_is_no_file_of_results_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    path.write_text("nothing")
    with pytest.raises(DataError, match=r"other\.parquet has no results of jobs\.compare"):
        read_lines(path)


def test_points_are_means_over_seeds_of_what_did_not_fail() -> None:
    points = {point.name: point for point in points_of([*LINES, FAILED])}
    assert list(points) == ["full", "hash 2×", "unified 2×", "hash 10×", "unified 10×"]
    assert points["hash 2×"].mean("auc") == pytest.approx(0.75)
    assert points["hash 2×"].values("auc") == [0.76, 0.74]


def test_what_was_run_again_by_another_configuration_counts_once() -> None:
    again = replace(FULL, key="other", auc=0.9)
    (point,) = points_of([FULL, again])
    assert point.values("auc") == [0.9] and points_of([FULL, replace(again, error="broken")]) == []


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_is_better_and_smaller_than(figures: list[tuple[int, int]]) -> None:
    points = points_of(line(f"t{n}", 2, 0, auc / 10, size) for n, (auc, size) in enumerate(figures))
    front = {(point.mean("auc"), point.mean("serving_bytes")) for point in pareto_front(points)}

    def beaten(auc: float, size: float) -> bool:
        others = [(point.mean("auc"), point.mean("serving_bytes")) for point in points]
        return any(a >= auc and s <= size and (a, s) != (auc, size) for a, s in others)

    assert front == {(auc / 10, size) for auc, size in figures if not beaten(auc / 10, size)}
    sizes = [point.mean("serving_bytes") for point in pareto_front(points)]
    assert sizes == sorted(set(sizes))


def test_gaps_are_of_seeds_that_both_have() -> None:
    found = gaps(points_of(LINES), "unified", "hash")
    assert [(gap.compression, gap.better, gap.worse) for gap in found] == [
        (2, (0.78, 0.77), (0.76, 0.74)),
        (10, (0.72,), (0.66,)),
    ]
    assert found[1].differences == pytest.approx([0.06])


def test_the_page_says_it_all(tmp_path: Path) -> None:
    other = replace(FULL, key="x", model="dnn", overrides="table.alpha=1", command="python -m jobs.compare 'seeds=[0]'")
    paths = write_page(tmp_path / "some.md", [*LINES, FAILED, other])
    assert [path.name for path in paths] == ["some.md", "some-1-small-deepfm.svg", "some-2-small-dnn.svg"]
    page = paths[0].read_text()
    assert "python -m jobs.compare\npython -m jobs.compare 'seeds=[0]'\n" in page and "(some.parquet)" in page
    assert "## small, deepfm\n\n8 runs, 0.01 h of one core. All told `epochs=2`." in page
    assert "`full` besides: `table.alpha=1`." in page.partition("## small, dnn")[2]
    row = "| 10× | 2 | 0.7300 (0.7200–0.7400) | 0.5000 | 0.1 |  | 10.0 | 0.2 | 0.0 | 1,234 | 7 | 1 | 3 |"
    assert f"| **`unified`** {row}" in page and "| `hash` | 10×" in page and "| **`full`** |  | 1 | 0.8000 |" in page
    assert "| 2× | 2 | 0.7750 (0.7700–0.7800) | 0.7500 (0.7400–0.7600) | 0.0250 (0.0200–0.0300) |" in page
    assert "above `hash` at every size: yes; the gap grows with every step to a smaller one: yes, from +0.0250" in page
    assert "- `int8` 10×, seed 0: compression=10 allows 100 bytes\n" in page
    plot = paths[1].read_text()
    assert plot.startswith("<?xml") and plot.count("front") >= 1
    assert all(path.read_bytes() == again for path, again in zip(paths, _again(tmp_path, other), strict=True))


def _again(folder: Path, other: Line) -> list[bytes]:
    return [path.read_bytes() for path in write_page(folder / "some.md", [*LINES, FAILED, other])]
