"""The page of what a joiner holds: a line in five of the measured ones, the last among them, and the command."""

from pathlib import Path

from benches.joiner_memory import write_page


def test_the_page_shows_some_of_the_lines_and_the_last(tmp_path: Path) -> None:
    lines = [
        {"events": 1e5 * at, "held_mb": 250.0 + at, "of_it_not_files_mb": 170.5, "files_mb": 3.0, "k_events": 11.25}
        for at in range(1, 51)
    ]
    page, plot = write_page(tmp_path, lines, {"events": 5_000_000, "remember_seconds": 3600.0, "memory_mb": 64})
    rows = [row for row in page.read_text().splitlines() if row.startswith("| ") and "events" not in row]
    assert len(rows) == 10
    assert rows[0] == "| 500,000 | 255 | 170.5 | 3 | 11.25 |"
    assert rows[-1] == "| 5,000,000 | 300 | 170.5 | 3 | 11.25 |"
    command = "python -m benches.joiner_memory --events 5000000 --remember-seconds 3600 --memory-mb 64"
    assert command in page.read_text() and "<svg" in plot.read_text()
