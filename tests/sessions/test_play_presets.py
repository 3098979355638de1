"""The presets of logs that few have, on small files in the format that each is documented in."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from composing import composed

from recsys.sessions.log import TEST, VALID, SessionLog
from recsys.sessions.logs import build_plays, read_log
from recsys.sessions.sessioniser import Survivors

DAY = 86_400


def read(preset: str, folder: Path, *overrides: str) -> tuple[SessionLog, Survivors]:
    fields: dict[str, Any] = composed("session", f"plays={preset}", f"plays.folder={folder}", *overrides)["plays"]
    return read_log(build_plays(fields))


def drawn(num_sessions: int, num_tracks: int = 30) -> np.ndarray:
    """Twelve distinct tracks a session."""
    draw = np.random.default_rng(0)
    return np.stack([draw.permutation(num_tracks)[:12] for _ in range(num_sessions)])


@pytest.mark.parametrize("as_timestamps", [False, True])
def test_deezer_numbers_its_sessions(tmp_path: Path, as_timestamps: bool) -> None:
    """Parquet with user_id, session_id, product_track_id, ts: the first ten tracks of whom has 250 sessions."""
    tracks_SK = drawn(250)
    starts_S = 1_646_092_800 + DAY * np.arange(250)
    users = np.concatenate([np.full(tracks_SK.size, 77), np.full(120, 5)])  # the other has ten sessions
    sessions = np.concatenate([np.repeat(9000 + np.arange(250), 12), np.repeat(np.arange(10), 12)])
    tracks = 10**9 + np.concatenate([tracks_SK.reshape(-1), tracks_SK[:10].reshape(-1)])
    # 30 minutes between two plays: silence ends no session where the log numbers them
    times = np.concatenate([(starts_S[:, None] + 1800 * np.arange(12)).reshape(-1), np.arange(120)])
    seconds = pa.array(times).cast(pa.timestamp("s")).cast(pa.timestamp("us")) if as_timestamps else pa.array(times)
    table = pa.table({"user_id": users, "session_id": sessions, "product_track_id": tracks, "ts": seconds})
    draw = np.random.default_rng(1).permutation(len(users))
    pq.write_table(table.take(pa.array(draw)), tmp_path / "user_sessions.parquet")
    log, survivors = read("deezer", tmp_path)
    assert log.user_ids == [77]
    assert log.times_S.tolist() == starts_S.tolist()
    assert np.array_equal(np.array(log.track_ids)[log.tracks_SK], 10**9 + tracks_SK[:, :10])
    assert [(log.parts_S == part).sum() for part in (VALID, TEST)] == [5, 10]
    assert survivors["sessions"]["users"] == 2 and survivors["users"]["users"] == 1


def test_lfm1b_is_filtered_as_pisa_does(tmp_path: Path) -> None:
    """LFM-1b_LEs.txt: user, artist, album, track, seconds, by tabs, no header."""
    tracks_SK = drawn(60)
    lines = []

    def tell(user: int, track: int, time: int) -> None:
        lines.append(f"{user}\t{track % 7}\t{track % 9}\t{track}\t{time}")

    for user in (1, 2, 3):
        for session, tracks_K in enumerate(tracks_SK):
            # two sessions lie before the user's last 365 days
            start = 1_300_000_000 + DAY * (400 + session if session >= 2 else session)
            for k, track in enumerate(tracks_K):
                tell(user, int(track), start + 200 * k)
            for again in range(8):
                tell(user, int(tracks_K[0]), start + 2300 + again)  # 1,000 plays, the same track
        tell(user, 500 + user, 1_300_000_000 + DAY * 450 + 1)  # a track of one listener
    for session, tracks_K in enumerate(tracks_SK):  # a user of 60 days
        for k in range(20):
            tell(4, int(tracks_K[k % 12]), 1_300_000_000 + DAY * session + 200 * k)
    for k in range(900):  # and one of few plays
        tell(5, k % 12, 1_300_000_000 + DAY * k)
    order = np.random.default_rng(0).permutation(len(lines))
    (tmp_path / "LFM-1b_LEs.txt").write_text("\n".join(lines[at] for at in order) + "\n")
    log, survivors = read("lfm1b", tmp_path, "plays.rules.min_listeners=3")
    assert sorted(log.user_ids) == [1, 2, 3]
    assert np.diff(log.first_U1).tolist() == [58] * 3
    named_SK = np.array([int(id_) for id_ in log.track_ids])[log.tracks_SK]
    assert np.array_equal(named_SK, np.tile(tracks_SK[2:, :10], (3, 1)))
    assert max(int(id_) for id_ in log.track_ids) < 30
    assert log.times_S[0] == 1_300_000_000 + 402 * DAY
    assert [(log.parts_S == part).sum() for part in (VALID, TEST)] == [15, 30]
    assert survivors["read"]["users"] == 5 and survivors["enough"]["users"] == 3
