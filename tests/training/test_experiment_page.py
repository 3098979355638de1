"""Results by line, and the page out of them: means, spread and differences by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import DataError
from recsys.training.experiment_page import write_page
from recsys.training.experiments import Results, figures_of
from recsys.training.metrics import ProgressiveMetrics


def line(seed: int, aucs: dict[str, float], data: str = "ml100k", **settings: Any) -> dict[str, Any]:
    judged = {name: {"auc": auc, "logloss": 0.5, "calibration": 1.25} for name, auc in aucs.items()}
    return {
        "key": f"{data}-{seed}-{settings}",
        "data": data,
        "seed": seed,
        "settings": {"seed": seed, "evaluation.last": 0.25, "table.embedding_dim": 16, **settings},
        "judged": judged,
        "examples": 1000,
        "rows": 10 * seed,
        "serving_bytes": 2_000_000,
        "store_bytes": 5_000_000,
        "cpu_seconds": 3.0,
    }


def test_a_run_whose_line_is_there_is_known(tmp_path: Path) -> None:
    results = Results(tmp_path / "results" / "syncs.jsonl")
    assert results.lines() == [] and not results.has("a")
    for key in ("a", "b"):
        results.add({"key": key, "settings": {}, "judged": {}})
    assert [found["key"] for found in Results(tmp_path / "results" / "syncs.jsonl").lines()] == ["a", "b"]
    assert results.has("b") and not results.has("c")
    with (tmp_path / "results" / "syncs.jsonl").open("a") as file:
        file.write('{"key": "half"')
    with pytest.raises(DataError, match=r"syncs\.jsonl, line 3: no result of a run"):
        results.lines()


def test_copies_beside_each_other(tmp_path: Path) -> None:
    """Two seeds: 1 sync at 70 and 72, 10 at 73 and 74, live at 74 and 75 percent."""
    lines = [
        line(0, {"live": 0.74, "1": 0.70, "10": 0.73}),
        line(1, {"live": 0.75, "1": 0.72, "10": 0.74}),
        line(0, {"live": 0.6, "1": 0.6, "10": 0.6}, data="synthetic_stream"),
    ]
    paths = write_page(tmp_path / "syncs.md", lines)
    assert [path.name for path in paths] == ["syncs.md", "syncs-ml100k.svg", "syncs-synthetic_stream.svg"]
    text = paths[0].read_text()
    assert "python -m jobs.online -m experiment=syncs" in text and "Its last 25 % are judged" in text
    assert "| 1: frozen | 2 | 71.00 ± 1.41 | +0.00 ± 0.00 | 0.5000 | 1.2500 |" in text
    assert "| 10 | 2 | 73.50 ± 0.71 | +2.50 ± 0.71 | 0.5000 | 1.2500 |" in text
    assert "| live | 2 | 74.50 ± 0.71 | +3.50 ± 0.71 | 0.5000 | 1.2500 |" in text
    assert text.index("is **synthetic**") > text.index("## synthetic_stream")
    assert all("<svg" in path.read_text() for path in paths[1:])


def test_settings_that_differ_beside_each_other(tmp_path: Path) -> None:
    """By seed: 64 against 60 and 66 against 64; the fields of a kind alone are not told."""
    lines = [
        line(seed, {"live": 0.5, "100": auc}, **{"table.kind": kind, "table.budget": budget, **of_kind})
        for kind, budget, of_kind, aucs in (
            ("hash", 1000, {"table.num_buckets": None}, (0.64, 0.66)),
            ("collisionless", 1000, {"table.ttl_seconds": None}, (0.60, 0.64)),
        )
        for seed, auc in enumerate(aucs, 1)
    ]
    text = write_page(tmp_path / "collisions.md", lines)[0].read_text()
    assert "| `table.kind` | seeds | live | served, 100 syncs | Δ | rows | served | store |" in text
    assert "| collisionless | 2 | 50.00 ± 0.00 | 62.00 ± 2.83 | +0.00 ± 0.00 | 15 | 2.00 MB | 5.00 MB |" in text
    assert "| hash | 2 | 50.00 ± 0.00 | 65.00 ± 1.41 | +3.00 ± 1.41 | 15 | 2.00 MB | 5.00 MB |" in text


def test_the_same_lines_make_the_same_bytes(tmp_path: Path) -> None:
    lines = [json.loads(json.dumps(line(seed, {"live": 0.7, "1": 0.7, "10": 0.71}))) for seed in range(3)]
    first, second = (write_page(tmp_path / of / "syncs.md", lines) for of in _made(tmp_path, "a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def _made(folder: Path, *names: str) -> tuple[str, ...]:
    for name in names:
        (folder / name).mkdir()
    return names


def test_what_a_line_says_of_predictions() -> None:
    metrics = ProgressiveMetrics()
    metrics.add(time_ms=range(40), labels=[0, 1] * 20, probabilities=[0.25, 0.75] * 20)
    figures = figures_of(metrics)
    assert (figures["auc"], figures["num_examples"], figures["windows"]) == (1.0, 40, [1.0] * 20)
