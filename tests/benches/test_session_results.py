"""The page of results: trials are run once, and the page says how many seeds a line has."""

from pathlib import Path

import pytest

from benches import session_results
from benches.session_results import Trial
from recsys.errors import DataError


def test_trials_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Trial("fit", "0.5", 0), Trial("fit", "0.5", 1), Trial("nyc", "global top", 0)]
    monkeypatch.setattr(session_results, "trials", lambda: iter(wanted))
    told = ["--folder", str(tmp_path), "--page", str(tmp_path / "page.md"), "--data", str(tmp_path / "none")]
    assert session_results.main([*told, "--minutes", "0"]) == 0
    assert "| decay 0.5 (60 users) | | | | 0 |" in (tmp_path / "page.md").read_text()
    assert session_results.main(told) == 0
    lines = (tmp_path / "session_results.jsonl").read_text().splitlines()
    assert len(lines) == 2  # the check-ins are not there
    (line,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| decay 0.5")]
    assert line.endswith("| 2 |") and abs(float(line.split("|")[2]) - 0.5) < 0.05
    assert session_results.main(told) == 0
    assert (tmp_path / "session_results.jsonl").read_text().splitlines() == lines
    (tmp_path / "session_results.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="a line that is no trial"):
        session_results.known_results(tmp_path / "session_results.jsonl")
