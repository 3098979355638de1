"""The quick form of benches.graphhash: it goes on where it stopped, and its page says what the lines say."""

import json
from pathlib import Path

import pytest

from benches import graphhash
from benches.graphhash_page import write_page


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    command = ["graphhash", "--quick", "--folder", str(folder), "--seeds", "1", *arguments]
    monkeypatch.setattr("sys.argv", command)
    return graphhash.main()


def test_quick_runs_go_on_where_they_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, tmp_path, "--method", "graphhash", "double") == 0
    first = (tmp_path / "graphhash.jsonl").read_text()
    assert run(monkeypatch, tmp_path, "--method", "graphhash", "double", "frequency", "graphhash_own") == 0
    again = (tmp_path / "graphhash.jsonl").read_text()
    assert again.startswith(first)
    lines = [json.loads(line) for line in again.splitlines()]
    assert [line["method"] for line in lines] == ["popularity", "graphhash", "double", "frequency", "graphhash_own"]
    rows = {line["method"]: line["rows"] for line in lines[1:]}
    assert rows["graphhash"] == rows["double"] == rows["frequency"] >= rows["graphhash_own"]
    map_bytes = lines[1]["bytes"] - 4 * 64 * rows["graphhash"]
    assert 520 * 4 / 8 < map_bytes < 520 * 2  # 520 ids, of a few bits each
    page = (tmp_path / "graphhash.md").read_text()
    assert "## planted, mf" in page and f"| {lines[1]['test']['recall']:.4f} |" in page
    assert (tmp_path / "graphhash-planted-mf.svg").stat().st_size > 1000


def test_the_verdict_is_that_of_the_lines(tmp_path: Path) -> None:
    def line(method: str, recall: float, seed: int = 0, rate: float = 0.01) -> dict:
        test = {"recall": recall, "recall_capped": recall, "ndcg": recall}
        sizes = {"rows": 10, "bytes": 2560, "epoch": 4, "cpu_seconds": 1.0, "valid": recall, "learning_rate": rate}
        return {"data": "d", "retriever": "mf", "method": method, "seed": seed, "test": test, **sizes}

    lines = [line("full", 0.3), line("graphhash", 0.2), line("graphhash", 0.22, 1), line("double", 0.1)]
    lines += [line("frequency", 0.05), line("frequency", 0.04, rate=0.3)]
    write_page(tmp_path, lines)
    page = (tmp_path / "graphhash.md").read_text()
    assert "**2.10 times** what the best hash (double) finds" in page
    assert "above every hash run: yes; full above graphhash: yes; not run yet: random, double_frequency, lsh" in page
    assert "| **graphhash** | 2 | 10 | 0.00 | 0.2100 (0.2000–0.2200) |" in page
    assert "Closest to the full table is graphhash, with 70% of its recall" in page
    write_page(tmp_path, [*lines[1:], line("double", 0.21, 1)])
    page = (tmp_path / "graphhash.md").read_text()
    assert "**1.35 times**" in page and "above every hash run: no; full above graphhash: no; not run yet: full," in page
