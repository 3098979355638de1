"""The benchmark of sessions: what it times beside scipy gives scipy's numbers, and the quick form writes its file."""

import json
from pathlib import Path

import pytest

from benches import session


def test_the_quick_form_runs_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy")
    assert session.main(["--quick", "--folder", str(tmp_path)]) == 0  # it compares both sides before it times them
    result, median, late = json.loads((tmp_path / "session.json").read_text())
    assert (result["peer"], result["target"]) == ("scipy", 3)
    assert 0 < median["ours"] <= late["ours"] and (late["target"], late["bound"]) == (20, "most")
    assert result["ours"] > 0 and "ACT-R over sessions" in capsys.readouterr().out
