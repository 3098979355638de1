import dataclasses
import importlib.util
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets import prepare as prepare_module
from recsys.datasets.ml100k import GENRES, USER_TYPES, download_wheel
from recsys.datasets.prepare import DATASETS, prepare
from recsys.datasets.prepared import Manifest, open_prepared
from recsys.errors import ConfigError, DataError

TINY = {
    "ml100k": dataclasses.replace(DATASETS["ml100k"], editions={5: "tiny"}),
    "ml_latest_small": dataclasses.replace(DATASETS["ml_latest_small"], editions={4: "tiny"}),
}


def prepare_tiny(name, into, data_folder, *, download=None, progress=None) -> Manifest:
    """The public ``prepare`` but for the number of ratings it expects."""
    lines = [] if progress is None else progress
    return prepare_module._prepare(TINY[name], into, data_folder, download, lines.append)


def rows(path: Path) -> list[tuple]:
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def fail_to_download(folder: Path) -> Path:
    raise AssertionError(folder)


def test_ml100k_in_its_owners_layout(ml100k_folder, tmp_path):
    manifest = prepare_tiny("ml100k", tmp_path / "out", ml100k_folder, download=fail_to_download)
    prepared = open_prepared(tmp_path / "out")

    t = 880_000_000_000
    assert rows(prepared.impressions) == [
        ("ml100k-0", 2, 10, t),
        ("ml100k-1", 1, 10, t + 1_000),
        ("ml100k-2", 1, 20, t + 2_000),  # the same second as the next, and before it in u.data
        ("ml100k-3", 2, 20, t + 2_002),
        ("ml100k-4", 3, 30, t + 9_000),
    ]
    assert {row[0]: row[1:3] for row in rows(prepared.actions)} == {
        "ml100k-2": (1, "like"),
        "ml100k-3": (2, "like"),
        "ml100k-4": (3, "like"),
    }
    assert rows(prepared.users) == [
        (1, t - 1, 24, "M", "technician", "85711"),
        (2, t - 1, 53, "F", "other", "T8H1N"),
        (3, t - 1, 33, "M", "writer", "00501"),
    ]
    assert rows(prepared.items) == [
        (10, t - 1, "Misérables, Les (1995)", ["Drama"], 1995),
        (20, t - 1, 'Toy "Story" (1995)', ["Animation", "Comedy"], 1995),
        (30, t - 1, "Nameless", [], None),
        (40, t - 1, "Never rated", ["Drama"], 1971),  # by its release date
    ]
    assert prepared.titles()[10] == "Misérables, Les (1995)"
    assert manifest == prepared.manifest
    assert (manifest.name, manifest.edition, manifest.like_threshold) == ("ml100k", "tiny", 4.0)
    assert (manifest.num_impressions, manifest.num_actions, manifest.num_users, manifest.num_items) == (
        5,
        3,
        3,
        4,
    )
    assert manifest.first_time_ms == t
    assert manifest.last_time_ms == max(row[3] for row in rows(prepared.actions))


def test_latest_small_in_its_owners_layout(latest_folder, tmp_path):
    prepare_tiny("ml_latest_small", tmp_path / "out", latest_folder)
    prepared = open_prepared(tmp_path / "out", "ml_latest_small")

    t = 999_999_999_000
    assert rows(prepared.impressions) == [
        ("ml_latest_small-0", 9, 1, t),
        ("ml_latest_small-1", 7, 1, t + 1_000),
        ("ml_latest_small-2", 7, 2, t + 1_002),
        ("ml_latest_small-3", 9, 3, t + 2_000),
    ]
    assert {row[0] for row in rows(prepared.actions)} == {"ml_latest_small-0", "ml_latest_small-2"}
    assert rows(prepared.users) == [(7, t - 1), (9, t - 1)]
    assert rows(prepared.items) == [
        (1, t - 1, "Toy Story (1995)", ["Adventure", "Animation"], 1995),
        (2, t - 1, "American President, The (1995)", ["Comedy"], 1995),
        (3, t - 1, "Hyena Road", [], None),
    ]


def test_column_types_are_those_promised(ml100k_folder, tmp_path):
    prepare_tiny("ml100k", tmp_path / "out", ml100k_folder)
    prepared = open_prepared(tmp_path / "out")
    int64, string = pa.int64(), pa.string()

    def types(path: Path) -> dict[str, pa.DataType]:
        schema = pq.read_schema(path)
        return dict(zip(schema.names, schema.types, strict=True))

    assert types(prepared.impressions) == {
        "request_id": string,
        "user_id": int64,
        "item_id": int64,
        "time_ms": int64,
    }
    assert types(prepared.actions) == {
        "request_id": string,
        "user_id": int64,
        "kind": string,
        "time_ms": int64,
    }
    assert types(prepared.users) == {"user_id": int64, "time_ms": int64} | USER_TYPES
    items = types(prepared.items)
    assert (items["item_id"], items["title"], items["year"]) == (int64, string, int64)
    assert items["genres"].value_type == string


def test_data_may_lie_directly_in_the_folder(ml100k_folder, latest_folder, tmp_path):
    assert prepare_tiny("ml100k", tmp_path / "a", ml100k_folder / "ml-100k").num_impressions == 5
    assert prepare_tiny("ml_latest_small", tmp_path / "b", latest_folder / "ml-latest-small").num_impressions == 4


def test_parquet_layout_gives_the_same_tables(ml100k_folder, tmp_path):
    folder = tmp_path / "copies" / "ml100k"
    folder.mkdir(parents=True)
    read = TINY["ml100k"].find(ml100k_folder / "ml-100k")
    pq.write_table(
        read.ratings.rename_columns(["user_id", "movie_id", "rating", "timestamp"]),
        folder / "ratings.parquet",
    )
    pq.write_table(read.users, folder / "users.parquet")
    flags = {genre: [int(genre in names) for names in read.items["genres"].to_pylist()] for genre in GENRES}
    dates = ["01-Jan-1996", "22-Nov-1995", None, "04-Feb-1971"]
    items = {
        "movie_id": read.items["item_id"],
        "movie_title": read.items["title"],
        "release_date": dates,
        **flags,
    }
    pq.write_table(pa.table(items), folder / "items.parquet")

    prepare_tiny("ml100k", tmp_path / "a", ml100k_folder)
    prepare_tiny("ml100k", tmp_path / "b", folder.parent)
    a, b = open_prepared(tmp_path / "a"), open_prepared(tmp_path / "b")
    assert a.manifest.files == b.manifest.files  # sizes and checksums: the same bytes


def wheel_with(tmp_path: Path, **members: str) -> Path:
    wheel = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for extension, text in members.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{extension}", text)
    return wheel


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
    f"{user}\t{item}\t{rating}\t{time}\n"
    for user, item, rating, time in [
        (1, 1, 3, 50),
        (1, 267, 4, 51),
        (2, 1412, 5, 49),
        (2, 1, 2, 51),
        (1, 1412, 4, 52),
    ]
)
WHEEL_USERS = "\n".join(
    [
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        "1\t24\tM\ttechnician\t85711",
        "2\t53\tF\tother\t00501",
    ]
)
WHEEL_ITEMS = "\n".join(
    [
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "1\tToy Story\t1995\tAnimation Children's Comedy",
        "267\tunkonwn\tunkonwn\tunknown",
        "1412\tLand Before Time III (1995)\tV\tAnimation Children's",
    ]
)


def test_ml100k_from_the_published_wheel(tmp_path):
    wheel = wheel_with(tmp_path, inter=INTER, user=WHEEL_USERS, item=WHEEL_ITEMS)
    asked, progress = [], []

    def download(folder: Path) -> Path:
        asked.append(folder)
        return wheel

    (tmp_path / "elsewhere").mkdir()
    manifest = prepare_tiny("ml100k", tmp_path / "a", None, download=download, progress=progress)
    prepare_tiny("ml100k", tmp_path / "b", tmp_path / "elsewhere", download=download)

    prepared = open_prepared(tmp_path / "a")
    assert manifest.source == "the published wheel recbole-1.2.1-py3-none-any.whl"
    assert [row[:3] for row in rows(prepared.impressions)] == [
        ("ml100k-0", 2, 1412),
        ("ml100k-1", 1, 1),
        ("ml100k-2", 1, 267),
        ("ml100k-3", 2, 1),
        ("ml100k-4", 1, 1412),
    ]
    assert rows(prepared.items) == [
        (1, 48_999, "Toy Story (1995)", ["Animation", "Children's", "Comedy"], 1995),
        (267, 48_999, "unknown", ["unknown"], None),
        (1412, 48_999, "Land Before Time III (1995) (V)", ["Animation", "Children's"], 1995),
    ]
    assert rows(prepared.users)[1] == (2, 48_999, 53, "F", "other", "00501")
    assert len(asked) == 2 and not any(folder.exists() for folder in asked)  # the temporary folders are gone
    assert "RECSYS_DATA is not set; downloading the published recbole==1.2.1 wheel" in progress[0]


@pytest.fixture
def pip_offline(tmp_path, monkeypatch):
    """The real pip, with a local folder for an index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("pip_offline")
def test_pip_fetches_the_wheel_and_installs_nothing(tmp_path):
    wheel = wheel_with(tmp_path, inter=INTER, user=WHEEL_USERS, item=WHEEL_ITEMS)
    with zipfile.ZipFile(wheel, "a") as archive:
        about = "recbole-1.2.1.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    assert prepare_tiny("ml100k", tmp_path / "out", None, download=download_wheel).num_actions == 3
    assert importlib.util.find_spec("recbole") is None


@pytest.mark.usefixtures("pip_offline")
def test_pips_complaint_is_passed_on(tmp_path):
    with pytest.raises(DataError, match=r"pip download recbole==1.2.1 failed: ERROR: No matching distribution"):
        prepare_tiny("ml100k", tmp_path / "out", None, download=download_wheel)


def test_a_wheel_without_the_data_is_refused(tmp_path):
    wheel = wheel_with(tmp_path, inter=INTER)
    with pytest.raises(DataError, match=r"not the recbole==1.2.1 wheel with MovieLens 100K inside"):
        prepare_tiny("ml100k", tmp_path / "out", None, download=lambda folder: wheel)
    wheel.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"recbole-1.2.1-py3-none-any.whl: not the recbole"):
        prepare_tiny("ml100k", tmp_path / "out", None, download=lambda folder: wheel)


def test_not_found_says_where_to_get_it(tmp_path):
    def no_network(folder: Path) -> Path:
        raise DataError("pip download recbole==1.2.1 failed: no network")

    with pytest.raises(DataError) as raised:
        prepare("ml100k", tmp_path / "out", data_folder=None, download=no_network)
    assert str(raised.value) == (
        "data set 'ml100k' not found (RECSYS_DATA is not set, and pip download recbole==1.2.1 failed: no "
        "network); download it from grouplens.org/datasets/movielens/100k/, unpack it, and set RECSYS_DATA "
        "to the folder"
    )
    with pytest.raises(DataError) as raised:
        prepare("ml_latest_small", tmp_path / "out", data_folder=tmp_path, download=fail_to_download)
    assert str(raised.value) == (
        f"data set 'ml_latest_small' not found (not in {tmp_path}); download it from "
        "grouplens.org/datasets/movielens/latest/, unpack it, and set RECSYS_DATA to the folder"
    )
    with pytest.raises(DataError, match=r"RECSYS_DATA is .*nowhere, which is no folder"):
        prepare("ml100k", tmp_path / "out", data_folder=tmp_path / "nowhere", download=fail_to_download)


def test_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match="unknown data set 'ml1m'; known: ml100k, ml_latest_small"):
        prepare("ml1m", Path("unused"), data_folder=None)


def test_the_public_function_takes_the_published_counts_only(ml100k_folder, latest_folder, tmp_path):
    with pytest.raises(DataError, match=r"5 ratings found, 100,000 \(1998\) expected"):
        prepare("ml100k", tmp_path / "out", data_folder=ml100k_folder)
    with pytest.raises(DataError, match=r"4 ratings found, 100,004 \(2016\) or 100,836 \(2018\) expected"):
        prepare("ml_latest_small", tmp_path / "out", data_folder=latest_folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owner"]  # nothing half-made is left


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("7,2,NaN,1000000000", r"rating 2 \(user_id=7, item_id=2, rating=None, .*has no rating \(1 such\)"),
        ("7,2,,1000000000", r"has no rating"),
        (",2,4.0,1000000000", r"has no user_id"),
        ("7,2,4.0,", r"has no timestamp"),
        ("7,2,9.0,1000000000", r"is not within 0\.5\.\.5"),
        ("7,2,4.0,1000000000000", r"not in seconds since 1970"),
        (
            "7,1,4.0,1000000007",
            r"rating 2 \(user_id=7, item_id=1, .* repeats a \(user, item\) pair \(1 such\)",
        ),
        ("7,99,4.0,1000000000", r"1 values of item_id occur in ratings only, 99 first"),
        ("seven,2,4.0,1000000000", r"ratings\.csv: .*conversion error.*expected columns userId, movieId"),
        ("7,2,4.0", r"ratings\.csv: .*Expected 4 columns, got 3"),
    ],
)
def test_a_bad_rating_is_named(latest_folder, tmp_path, line, complaint):
    path = latest_folder / "ml-latest-small" / "ratings.csv"
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=complaint) as raised:
        prepare_tiny("ml_latest_small", tmp_path / "out", latest_folder)
    assert "\n" not in str(raised.value)


def test_a_missing_column_or_file_is_named(latest_folder, ml100k_folder, tmp_path):
    path = latest_folder / "ml-latest-small" / "ratings.csv"
    path.write_text(path.read_text().replace("timestamp", "when"))
    with pytest.raises(DataError, match=r"ratings\.csv: .*'timestamp'.*expected columns .*, timestamp"):
        prepare_tiny("ml_latest_small", tmp_path / "out", latest_folder)
    (ml100k_folder / "ml-100k" / "u.user").unlink()
    with pytest.raises(DataError, match=r"ml-100k: u.user missing beside u.data"):
        prepare_tiny("ml100k", tmp_path / "out", ml100k_folder)


def test_repeated_items_are_refused(latest_folder, tmp_path):
    path = latest_folder / "ml-latest-small" / "movies.csv"
    path.write_text(path.read_text() + "1,Toy Story again (1995),Comedy\n")
    with pytest.raises(DataError, match="item_id missing or repeated among 4 rows"):
        prepare_tiny("ml_latest_small", tmp_path / "out", latest_folder)


def test_preparing_twice_does_nothing_and_says_so(ml100k_folder, tmp_path):
    into, progress = tmp_path / "deep" / "out", []
    first = prepare_tiny("ml100k", into, ml100k_folder)
    before = {path.name: path.stat().st_mtime_ns for path in into.iterdir()}
    assert prepare_tiny("ml100k", into, None, download=fail_to_download, progress=progress) == first
    assert {path.name: path.stat().st_mtime_ns for path in into.iterdir()} == before
    assert progress == [f"ml100k (edition tiny) is already prepared in {into}; nothing to do"]
    assert [path.name for path in into.parent.iterdir()] == ["out"]


def test_a_broken_folder_is_prepared_again(ml100k_folder, tmp_path):
    into, progress = tmp_path / "out", []
    first = prepare_tiny("ml100k", into, ml100k_folder)
    (into / "items.parquet").unlink()
    assert prepare_tiny("ml100k", into, ml100k_folder, progress=progress).files == first.files
    assert progress[0].startswith("preparing again: ") and "items.parquet is missing" in progress[0]
    assert open_prepared(into).manifest.files == first.files


def test_other_folders_are_never_overwritten(ml100k_folder, latest_folder, tmp_path):
    into = tmp_path / "precious"
    into.mkdir()
    (into / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="precious holds something else than a prepared data set"):
        prepare_tiny("ml100k", into, ml100k_folder)
    prepare_tiny("ml100k", tmp_path / "out", ml100k_folder)
    with pytest.raises(DataError, match="holds data set 'ml100k', not 'ml_latest_small'; name a new folder"):
        prepare_tiny("ml_latest_small", tmp_path / "out", latest_folder)
    assert (into / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["impressions.parquet", "actions.parquet", "users.parquet", "items.parquet"])
def test_open_finds_damage(ml100k_folder, tmp_path, name):
    prepare_tiny("ml100k", tmp_path / "out", ml100k_folder)
    path = tmp_path / "out" / name
    whole = path.read_bytes()
    remedy = r"run: python -m jobs\.prepare data=ml100k$"
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{name} has [\d,]+ bytes, its manifest says [\d,]+; {remedy}"):
        open_prepared(tmp_path / "out")
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(DataError, match=rf"{name} has changed since it was prepared .*; {remedy}"):
        open_prepared(tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match=rf"{name} is missing; {remedy}"):
        open_prepared(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "files": {}}', '{"format":1}'])
def test_open_refuses_what_is_no_manifest(ml100k_folder, tmp_path, text):
    prepare_tiny("ml100k", tmp_path / "out", ml100k_folder)
    (tmp_path / "out" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json can not be read \(.+\); run: .* data=NAME$"):
        open_prepared(tmp_path / "out")


def test_open_says_how_to_prepare_what_is_not_there(ml100k_folder, tmp_path):
    with pytest.raises(DataError, match=r"manifest.json is missing.*; run: python -m jobs.prepare data=ml100k$"):
        open_prepared(tmp_path / "nothing", "ml100k")
    prepare_tiny("ml100k", tmp_path / "out", ml100k_folder)
    with pytest.raises(DataError, match=r"holds data set 'ml100k', not 'ml_latest_small'; run: .*=ml_latest_small$"):
        open_prepared(tmp_path / "out", "ml_latest_small")
