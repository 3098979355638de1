"""The report as a browser reads it: well formed, complete, escaped, self-contained, the same every time."""

import datetime
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.training.report import Plot, format_value, label_of, write_report

VOID = {"meta", "br", "link", "img", "input"}

SUMMARY = {
    "model": "deepfm <script>alert(1)</script>",
    "auc": 0.7812345,
    "train_seconds": 75.3,
    "table_bytes": 3 << 20,
    "rows_per_second": 2_300_000.0,
}
PLOTS = [
    Plot(
        "AUC over <the> stream & more",
        "examples seen",
        "AUC",
        {"deepfm": ([0, 1, 2], [0.5, 0.7, 0.8]), 'user "mean" $x$': ([0, 1, 2], [0.5, 0.6, 0.65])},
        note="Each point is one window; 5 < 6.",
    ),
    Plot("Calibration", "examples seen", "predicted / observed", {"deepfm": ([0, 1], [1.5, 1.01])}),
]


class Reader(HTMLParser):
    """Collects text, attributes and ids, and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("run") / "new folder" / "report.html"
    write_report(path, title="Online <b>DeepFM</b> & friends", summary=SUMMARY, plots=PLOTS)
    return path.read_text(encoding="utf-8")


def test_contains_every_title_label_and_value(page: str) -> None:
    texts = read(page).text
    assert texts.count("Online <b>DeepFM</b> & friends") == 2  # title and heading
    for text in ["model", "deepfm <script>alert(1)</script>", "auc", "0.7812", "train", "1 min 15 s"]:
        assert text in texts
    for text in ["table", "3 MiB", "rows", "2,300,000 / s"]:
        assert text in texts
    for plot in PLOTS:
        assert {plot.title, plot.x_label, plot.y_label, *plot.series} <= set(texts)
    assert "Each point is one window; 5 < 6." in texts
    assert {"0.8", "0.65", "1.01"} <= set(texts)  # where each series ends


def test_user_text_makes_no_element(page: str) -> None:
    tags = Counter(tag for tag, _ in read(page).tags)
    assert tags["script"] == 0
    assert "<the>" not in page
    assert tags["figure"] == tags["figcaption"] == len(PLOTS)


def test_refers_to_nothing_outside(page: str) -> None:
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    reader = read(page)
    assert not {tag for tag, _ in reader.tags} & {"link", "img", "iframe", "object", "script"}
    assert all(attributes["href"].startswith("#") for _, attributes in reader.tags if "href" in attributes)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_ids_are_unique_and_every_reference_finds_its_id(page: str) -> None:
    reader = read(page)
    ids = Counter(attributes["id"] for _, attributes in reader.tags if "id" in attributes)
    assert max(ids.values()) == 1
    referred = set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'href="#([^"]*)"', page))
    assert referred
    assert referred <= set(ids)


def test_plots_are_described_for_those_who_do_not_see_them(page: str) -> None:
    labels = [a["aria-label"] for tag, a in read(page).tags if tag == "svg" and a.get("role") == "img"]
    assert labels == [
        'AUC over <the> stream & more: AUC by examples seen. deepfm ends at 0.8; user "mean" $x$ ends at 0.65.',
        "Calibration: predicted / observed by examples seen. deepfm ends at 1.01.",
    ]


def test_colours_follow_the_theme_and_width_follows_the_screen(page: str) -> None:
    assert not re.findall(r"#0[123]0[0-9]{3}\b", page)  # no stand-in is left
    plots = [attributes for tag, attributes in read(page).tags if attributes.get("role") == "img"]
    assert all("width" not in attributes and "viewbox" in attributes for attributes in plots)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "stroke: var(--series-0)" in page
    assert "stroke: var(--series-1)" in page


def test_same_content_same_bytes(tmp_path: Path, page: str) -> None:
    write_report(tmp_path / "r.html", title="Online <b>DeepFM</b> & friends", summary=SUMMARY, plots=PLOTS)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page


def test_line_goes_through_its_points(tmp_path: Path) -> None:
    straight = Plot("t", "x", "y", {"s": (list(range(20)), [float(x * x) for x in range(20)])})
    write_report(tmp_path / "r.html", title="t", summary={}, plots=[straight])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-0\)', page)
    points = np.array([float(number) for number in re.findall(r"-?[\d.]+", path)]).reshape(-1, 2)
    assert len(points) == 20
    x = (points[:, 0] - points[0, 0]) / (points[-1, 0] - points[0, 0])
    y = (points[:, 1] - points[0, 1]) / (points[-1, 1] - points[0, 1])
    np.testing.assert_allclose(y, x**2, atol=1e-5)


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"a": ([], [])},
        {"a": ([1], [2])},
        {"a": ([1, 2], [math.nan, math.nan])},
        {"_": ([1, 2], [3, math.inf])},
    ],
)
def test_little_or_no_data_still_makes_a_page(series: dict, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", title="t", summary={}, plots=[Plot("电影 🎬", "x", "y", series)])
    reader = read((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "电影 🎬" in reader.text


def test_more_series_than_colours_differ_by_dashes(tmp_path: Path) -> None:
    plot = Plot("t", "x", "y", {f"s{index}": ([0, 1], [index, index]) for index in range(9)})
    write_report(tmp_path / "r.html", title="t", summary={}, plots=[plot])
    reader = read((tmp_path / "r.html").read_text(encoding="utf-8"))
    swatches = [attributes["style"] for tag, attributes in reader.tags if tag == "line"]
    assert len(set(swatches)) == 9
    assert swatches[8] == "stroke: var(--series-0); stroke-dasharray: 5 3"


def test_series_of_unequal_lengths() -> None:
    with pytest.raises(DataError, match="plot 'AUC', series 'deepfm': 2 x but 1 y values; give a y per x"):
        Plot("AUC", "x", "y", {"deepfm": ([1, 2], [0.5])})


@pytest.mark.parametrize(
    ("key", "value", "label", "text"),
    [
        ("wall_seconds", 3.25, "wall", "3.25 s"),
        ("wall_seconds", 7_384, "wall", "2 h 3 min"),
        ("publish_p50_ms", 3.25, "publish p50", "3.25 ms"),
        ("peak_memory_bytes", 1_610_612_736, "peak memory", "1.5 GiB"),
        ("size_bytes", 1000, "size", "1000 B"),
        ("hit_percent", 99.5, "hit", "99.5 %"),
        ("num_examples", 100_000, "num examples", "100,000"),
        ("loss", np.float32(0.5), "loss", "0.5"),
        ("auc", math.nan, "auc", "–"),
        ("staleness", None, "staleness", "–"),
        ("exact", False, "exact", "no"),
        ("seconds", 2, "seconds", "2 s"),
        ("sizes", [400, 1000], "sizes", "400, 1,000"),
        ("last half", {"auc": 0.5, "wait_ms": 2}, "last half", "auc: 0.5, wait: 2 ms"),
        ("since", datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "since", "2026-01-02 00:00:00+00:00"),
    ],
)
def test_values_read_as_people_write_them(key: str, value: object, label: str, text: str) -> None:
    assert (label_of(key), format_value(key, value)) == (label, text)


def test_log_x_sets_powers_of_ten_equally_far_apart(tmp_path: Path) -> None:
    plot = Plot("Speed", "rows", "ratio", {"pull": ([1e5, 1e6, 1e7], [0.6, 0.5, 0.4])}, log_x=True)
    write_report(tmp_path / "report.html", title="Report", summary={}, plots=[plot])
    text = (tmp_path / "report.html").read_text()
    for tick in ("100,000", "1,000,000", "10,000,000"):
        assert f">{tick}<" in text
    line = max(re.findall(r'<path d="(M [^"]+)"[^>]*clip-path', text), key=lambda path: path.count("L"))
    xs = [float(point.split()[0]) for point in re.split("[ML]", line) if point.strip()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.01)
    with pytest.raises(DataError, match="no logarithm"):
        Plot("Speed", "rows", "ratio", {"pull": ([0.0], [0.6])}, log_x=True)
