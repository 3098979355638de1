"""Plays become the sessions that the rules say, whatever order they come in."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError, EventError
from recsys.events import END
from recsys.sessions.log import TEST, TRAIN, VALID, SessionLog, UserSplit
from recsys.sessions.plays import Play, PlayFiles, Plays, decode_play, drain_plays, plays_of, read_plays
from recsys.sessions.sessioniser import SessionRules, sessionise
from recsys.streams.memory import MemorySource
from recsys.streams.source import Partition

SPLIT = UserSplit(valid=1, test=1)
RULES = SessionRules(gap_seconds=100, min_tracks=1, max_tracks=3, split=SPLIT)
MINUTE_MS = 60_000


def plays(*rows: tuple[str, str, int]) -> Plays:
    """(user, track, second)."""
    return plays_of([Play(user, track, 1000 * second) for user, track, second in rows])


def named(log: SessionLog) -> list[tuple[str, int, list[str]]]:
    """Sessions as (user, second, tracks)."""
    return [
        (log.user_ids[user], int(time), [log.track_ids[track] for track in tracks if track >= 0])
        for user, time, tracks in zip(log.users_S, log.times_S, log.tracks_SK, strict=True)
    ]


def test_a_session_ends_at_silence_counts_a_track_once_and_is_cut_to_length() -> None:
    log, survivors = sessionise(
        plays(
            ("u", "a", 0), ("u", "b", 100), ("u", "a", 150), ("u", "c", 201), ("u", "d", 301),  # silences ≤ 100
            ("u", "e", 402),
            ("v", "a", 402),
        ),
        RULES,
    )  # fmt: skip
    assert named(log) == [("u", 0, ["a", "b", "c"]), ("u", 402, ["e"]), ("v", 402, ["a"])]
    assert log.parts_S.tolist() == [TRAIN, TEST, TRAIN]
    assert survivors["read"] == {"plays": 7, "users": 2, "tracks": 5}
    assert survivors["sessions"] == {"plays": 5, "users": 2, "tracks": 4, "sessions": 3}


def test_short_sessions_and_users_of_few_sessions_go() -> None:
    rows = [
        ("u", "a", 0),
        ("u", "b", 1),
        ("u", "c", 500),
        ("v", "a", 0),
        ("v", "b", 1),
        ("v", "a", 900),
        ("v", "c", 901),
    ]
    rules = SessionRules(gap_seconds=100, min_tracks=2, max_tracks=2, min_sessions=2, split=SPLIT)
    log, _ = sessionise(plays(*rows), rules)
    assert named(log) == [("v", 0, ["a", "b"]), ("v", 900, ["a", "c"])]


def test_users_tracks_and_days_need_enough() -> None:
    day = 86_400
    rows = [("u", "a", 0), ("u", "b", 1), ("u", "a", 3 * day), ("v", "a", 0), ("v", "c", 3 * day), ("w", "a", 5)]
    rules = SessionRules(
        min_tracks=1, max_tracks=2, min_history_days=3, min_plays=2, min_listeners=2, last_days=1, split=SPLIT
    )
    log, survivors = sessionise(plays(*rows), rules)
    assert survivors["enough"] == {"plays": 2, "users": 2, "tracks": 1}  # w is gone, b and c have one listener
    assert named(log) == [("u", 3 * day, ["a"]), ("v", 0, ["a"])]  # the last day of each


def test_nothing_left_says_what_to_lower() -> None:
    with pytest.raises(DataError, match="no session is left of 1 plays; lower a minimum"):
        sessionise(plays(("u", "a", 0)), SessionRules())
    with pytest.raises(DataError, match="no session is left of 0 plays"):
        sessionise(plays(), RULES)
    with pytest.raises(ConfigError, match="max_tracks=3 is below min_tracks=10"):
        SessionRules(max_tracks=3)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("uv"), st.sampled_from("abcd"), st.integers(0, 600)), min_size=1, max_size=25
    ),
    seed=st.integers(0, 99),
)
def test_any_order_and_duplicates_give_the_same_sessions(rows: list[tuple[str, str, int]], seed: int) -> None:
    """A clock that goes backwards in the log is no more than another order; of plays in one second, any is first."""
    rows = list({(user, second): (user, track, second) for user, track, second in rows}.values())
    told = [*rows, *rows[:5]]
    shuffled = [told[at] for at in np.random.default_rng(seed).permutation(len(told))]
    assert sorted(named(sessionise(plays(*shuffled), RULES)[0])) == sorted(named(sessionise(plays(*rows), RULES)[0]))


def test_sessions_that_the_log_tells_are_kept_apart_without_silence(tmp_path: Path) -> None:
    table = {"who": [1, 1, 1, 2], "what": [7, 8, 9, 7], "day": [0, 0, 1, 1], "hour": [22, 23, 0, 0]}
    pq.write_table(pa.table(table), tmp_path / "plays.parquet")
    files = PlayFiles(
        kind="parquet", files=("plays.parquet",), user="who", track=("what",), time={"day": 86400.0, "hour": 3600.0},
        session="day",
    )  # fmt: skip
    log, _ = sessionise(read_plays(files, tmp_path), SessionRules(min_tracks=1, max_tracks=3, split=SPLIT))
    assert named(log) == [(1, 22 * 3600, [7, 8]), (1, 86400, [9]), (2, 86400, [7])]


def test_text_times_and_tracks_of_two_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text('u\t1970-01-01T00:01:00Z\tA "x"\tT\nu\t1970-01-01T00:00:00Z\tB\t\n', "utf-8")
    files = PlayFiles(
        kind="delimited", files=("log.tsv",), user="user", track=("artist", "title"), time={"time": 1.0},
        columns=("user", "time", "artist", "title"),
    )  # fmt: skip
    read = read_plays(files, tmp_path)
    assert (read.track_ids, read.times_N.tolist()) == (['A "x"|T'], [60])  # a play without a title is left out


def test_missing_files_columns_and_times_are_told(tmp_path: Path) -> None:
    files = PlayFiles(kind="parquet", files=("x.parquet",), user="user", track=("track",), time={"ts": 1.0})
    with pytest.raises(DataError, match=r"x\.parquet is not there"):
        read_plays(files, tmp_path)
    pq.write_table(pa.table({"user": [1], "track": [2], "at": [3]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has no column 'ts'; it has user, track, at"):
        read_plays(files, tmp_path)
    pq.write_table(pa.table({"user": [1], "track": [2], "ts": ["noon"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'ts' is no time"):
        read_plays(files, tmp_path)


def test_plays_of_a_stream_are_drained_and_what_is_none_is_counted() -> None:
    items = [b'{"user":1,"track":"a","time_ms":1999}', b"{}", b'{"user":"x","track":2,"time_ms":-1}', END]
    drained, num_refused = drain_plays(MemorySource({Partition("plays", 0): items}))
    assert (drained.user_ids, drained.track_ids, drained.times_N.tolist(), num_refused) == ([1], ["a"], [1], 2)
    with pytest.raises(EventError, match="plays: Object missing required field `user`"):
        decode_play(b"{}")


def test_sessions_that_are_out_of_order_are_refused() -> None:
    with pytest.raises(DataError, match="not in time order"):
        SessionLog(np.array([0, 2]), np.array([5, 4]), np.zeros((2, 1), np.int32), np.zeros(2, np.int8), [1], [1])


def test_split_counts_from_the_end() -> None:
    assert UserSplit(valid=1, test=2).parts(np.array([0, 4])).tolist() == [TRAIN, VALID, TEST, TEST]


def test_the_excerpt_of_lastfm_has_the_sessions_that_were_counted_before() -> None:
    folder = Path(os.environ.get("RECSYS_DATA", "")) / "lastfm1k_sample"
    if not (folder / "first_5000_lines.tsv").is_file():
        pytest.skip("set RECSYS_DATA to the folder of real data")
    files = PlayFiles(
        kind="delimited", files=("first_5000_lines.tsv",), user="user", track=("artist", "title"), time={"time": 1.0},
        columns=("user", "time", "artist_id", "artist", "track_id", "title"),
    )  # fmt: skip
    read = read_plays(files, folder)
    every, _ = sessionise(read, SessionRules(min_tracks=1, max_tracks=50))
    eligible, _ = sessionise(read, SessionRules())
    assert (len(every.times_S), len(eligible.times_S), every.num_tracks) == (375, 154, 1192)
