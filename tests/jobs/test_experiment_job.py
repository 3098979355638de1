"""jobs.online with an experiment: lines and a page of every run, none of them twice, and no service started."""

import importlib
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from films import write_films


def online(*overrides: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Its exit status, in this process."""
    monkeypatch.setattr(sys, "argv", ["online", "-m", *overrides])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as stopped:
            importlib.import_module("jobs.online").main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return stopped.value.code


def test_a_sweep_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    write_films(tmp_path / "data" / "ml100k", num_users=20, num_items=30, num_impressions=1500)
    monkeypatch.chdir(tmp_path)
    sweep = ["experiment=syncs", "data=ml100k", "batch.max_examples=50", "evaluation.syncs=[1,5]"]
    assert online(*sweep, "seed=0,1", monkeypatch=monkeypatch) == 0, capfd.readouterr().err
    results = tmp_path / "docs" / "results"
    lines = [json.loads(text) for text in (results / "syncs.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert all(set(line["judged"]) == {"live", "1", "5"} and line["examples"] == 1500 for line in lines)
    assert all(line["judged"]["5"]["num_examples"] == 450 for line in lines)
    assert all(line["judged"]["live"]["auc"] > 0.6 for line in lines)  # the planted taste
    text = (results / "syncs.md").read_text()
    assert "1,500 examples; 2 runs" in text and "| 1: frozen | 2 |" in text
    assert len(list((tmp_path / "runs" / "joined").iterdir())) == 1
    capfd.readouterr()
    shutil.rmtree(tmp_path / "runs" / "joined")  # a run that is known needs nothing
    assert online(*sweep, "seed=1", monkeypatch=monkeypatch) == 0
    assert "has this run already" in capfd.readouterr().out
    assert len((results / "syncs.jsonl").read_text().splitlines()) == 2
