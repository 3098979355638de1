"""The benchmark of table kinds: every kind is measured, and its quick form runs to the end."""

import json
from pathlib import Path

import pytest

from benches import tables


def test_quick_form_measures_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--quick", "--folder", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "tables.json").read_text())
    kinds = [kind for kind in tables.KINDS if kind != "full"]
    assert [result["measure"].partition(":")[0] for result in results] == 3 * kinds
    assert all(result["peer"] == "full" and result["ours"] > 0 for result in results)
    assert {result["target"] for result in results if result["measure"].startswith("hash:")} == {0.8}
    assert {result["target"] for result in results if result["measure"].startswith("robe:")} == {0.4}
    assert "Table kinds" in capsys.readouterr().out
