"""ACT-R by value: the specification's numbers, invariants, and the kernels beside a few lines of numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.models.sessions.actr import (
    Cooccurrence,
    Memory,
    base_levels,
    bounded_power_sum,
    history_sums,
    matching_of,
    partial_matching,
    power_sum,
    session_weights,
    shares,
    sums_between,
)
from recsys.sessions.log import SessionLog, UserSplit
from recsys.sessions.planted import Planted, plant

SUMS = np.array([power_sum(ages, 0.5) for ages in ([64, 16, 1], [25], [100, 4])])
PLANTED = plant(Planted(num_users=12, num_sessions=15, num_tracks=300, split=UserSplit(valid=2, test=3)), 0).log


def log_of(*users: list[tuple[int, list[int]]], num_tracks: int = 6) -> SessionLog:
    """Each user's sessions as (second, tracks)."""
    sessions = [session for user in users for session in user]
    width = max(len(tracks) for _, tracks in sessions)
    tracks_SK = np.array([tracks + [-1] * (width - len(tracks)) for _, tracks in sessions], np.int32)
    first_U1 = np.cumsum([0, *map(len, users)])
    times_S = np.array([time for time, _ in sessions], np.int64)
    ids = list(range(len(users)))
    return SessionLog(
        first_U1, times_S, tracks_SK, UserSplit(valid=0, test=1).parts(first_U1), ids, [*range(num_tracks)]
    )


def slow_sums(log: SessionLog, session: int, memory: Memory) -> np.ndarray:
    """S of every track before a session, at its time."""
    sums_V = np.zeros(log.num_tracks)
    for earlier in range(log.begins_S[session], session):
        age = max(log.times_S[session] - log.times_S[earlier], memory.min_age_seconds)
        for track in log.tracks_SK[earlier]:
            if track >= 0:
                sums_V[track] += float(age) ** -memory.decay
    return sums_V


def test_base_levels_are_those_of_the_specification() -> None:
    assert SUMS.tolist() == pytest.approx([1.375, 0.2, 0.6])
    assert np.log(SUMS) == pytest.approx([0.318454, -1.609438, -0.510826], abs=1e-6)
    assert shares(SUMS) == pytest.approx([0.632184, 0.091954, 0.275862], abs=1e-6)
    assert shares(SUMS, "sum") == pytest.approx([0.565124, 0.174521, 0.260355], abs=1e-6)
    softmax = np.exp(np.log(SUMS)) / np.exp(np.log(SUMS)).sum()
    assert shares(SUMS) == pytest.approx(softmax, abs=1e-15)


def test_the_unit_of_time_cancels_in_log_shares_and_not_in_those_of_sums() -> None:
    in_minutes = SUMS * 60**0.5
    assert shares(in_minutes) == pytest.approx(shares(SUMS))
    assert abs(shares(in_minutes, "sum") - shares(SUMS, "sum")).max() > 0.1


@given(ages=st.lists(st.integers(1, 10**8), min_size=1, max_size=20), decay=st.floats(0, 2), age=st.integers(1, 10**8))
def test_a_play_more_raises_the_sum_and_order_is_nothing_to_it(ages: list[int], decay: float, age: int) -> None:
    assert power_sum([*ages, age], decay) > power_sum(ages, decay)
    assert power_sum(ages[::-1], decay) == pytest.approx(power_sum(ages, decay))


def test_an_empty_history_has_no_shares() -> None:
    assert shares(np.zeros(3)).tolist() == [0, 0, 0]
    assert shares(np.zeros(3), "sum").tolist() == [0, 0, 0]
    assert power_sum([], 0.5) == 0


@pytest.mark.parametrize("normalised", ["log", "sum"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.3])
def test_kernels_equal_a_plain_loop(decay: float, normalised: str) -> None:
    memory = Memory(decay=decay, normalised=normalised)  # type: ignore[arg-type]
    found = base_levels(PLANTED, memory, num_top=5, threads=1)
    asked_Q = np.arange(0, len(PLANTED.times_S), 7)
    sums_QV = history_sums(PLANTED, asked_Q, PLANTED.times_S[asked_Q], memory)
    for session, sums_V in zip(asked_Q, sums_QV, strict=True):
        assert sums_V == pytest.approx(slow_sums(PLANTED, session, memory))
        shares_V = shares(sums_V, memory.normalised)
        assert found.levels_SK[session] == pytest.approx(shares_V[PLANTED.tracks_SK[session]], rel=1e-5)
        num_known = min(5, int((shares_V > 0).sum()))
        assert found.top_levels_ST[session][:num_known] == pytest.approx(-np.sort(-shares_V)[:num_known], rel=1e-5)
        assert shares_V[found.top_ST[session][:num_known]] == pytest.approx(found.top_levels_ST[session][:num_known])
        assert (found.top_ST[session][num_known:] == -1).all()
        assert shares_V.sum() == pytest.approx(1 if num_known else 0)


def test_without_decay_the_order_is_that_of_counts() -> None:
    last_S = PLANTED.first_U1[1:] - 1
    sums_QV = history_sums(PLANTED, last_S, PLANTED.times_S[last_S], Memory(decay=0))
    for session, sums_V in zip(last_S, sums_QV, strict=True):
        heard = PLANTED.tracks_SK[PLANTED.begins_S[session] : session].reshape(-1)
        assert sums_V.tolist() == np.bincount(heard, minlength=PLANTED.num_tracks).tolist()


def test_threads_change_nothing() -> None:
    log = plant(Planted(num_users=900, num_sessions=20, num_tracks=300, split=UserSplit()), 1).log
    one, many = (base_levels(log, Memory(), num_top=3, threads=threads) for threads in (1, 3))
    assert np.array_equal(one.levels_SK, many.levels_SK)
    assert np.array_equal(one.top_ST, many.top_ST)


def test_plays_of_one_moment_and_clocks_that_go_back_count_as_the_least_age() -> None:
    log = log_of([(100, [0, 1]), (100, [0, 2])])
    assert base_levels(log, Memory(), num_top=2).levels_SK.tolist() == [[0, 0], [0.5, 0]]
    before = np.array([40])  # asked for a time before the history ends
    sums_QV = sums_between(log, np.array([0]), np.array([2]), before, Memory(min_age_seconds=4))
    assert sums_QV[0].tolist() == [1.0, 0.5, 0.5, 0, 0, 0]


def test_one_session_and_short_sessions() -> None:
    log = log_of([(0, [3])], [(0, [1, 2, 4]), (16, [1]), (80, [5, 1])])
    found = base_levels(log, Memory(), num_top=2)
    assert found.levels_SK[0].tolist() == [0, 0, 0]
    assert found.top_ST[0].tolist() == [-1, -1]
    old, new = 80**-0.5, 64**-0.5
    assert found.levels_SK[3] == pytest.approx([0, (old + new) / (3 * old + new), 0])
    assert found.top_ST[3].tolist() == [1, 2]  # of equal ones, what was heard first


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_what_is_remembered_of_few_plays_is_near_to_the_sum(decay: float) -> None:
    """Mean |ΔBL| over random ages falls with the plays that are kept (specification: .069, .029, .014 at d = .5)."""
    draw, errors = np.random.default_rng(0), {}
    histories = [np.sort(draw.uniform(60, 3e6, draw.integers(10, 40))) for _ in range(200)]
    for keep in (1, 4, 8):
        found = [
            abs(np.log(bounded_power_sum(ages[:keep].tolist(), len(ages), ages[-1], decay) / power_sum(ages, decay)))
            for ages in histories
        ]
        errors[keep] = np.mean(found)
    assert errors[8] < errors[4] < errors[1]
    assert (errors[1] < 0.2 and errors[8] < 0.03) if decay == 0.5 else errors[8] < 0.1
    assert bounded_power_sum([9.0], 3, 9.0, 0.5) == pytest.approx(1.0)  # all of one age


def test_bounded_kernels_equal_the_formula_and_all_of_it_is_exact() -> None:
    log = log_of([(0, [0]), (50, [0, 1]), (80, [0]), (84, [0]), (100, [1])])
    asked = np.array([4])
    sums_QV = history_sums(log, asked, np.array([100]), Memory(keep_plays=2))
    assert sums_QV[0, 0] == pytest.approx(bounded_power_sum([16, 20], 4, 100, 0.5))
    assert sums_QV[0, 1] == pytest.approx(50**-0.5)
    exact, kept = (base_levels(PLANTED, Memory(keep_plays=keep), num_top=4) for keep in (None, 99))
    assert kept.levels_SK == pytest.approx(exact.levels_SK, rel=1e-5)
    assert kept.top_levels_ST == pytest.approx(exact.top_levels_ST, rel=1e-5)


def test_spreading_is_that_of_the_specification() -> None:
    together = Cooccurrence(np.array([[0, 1], [1, 0], [0, 2]], np.int32), num_tracks=3)
    assert together.strength(0, 1) == pytest.approx(0.8165, abs=1e-4)
    assert together.strength(2, 0) == pytest.approx(0.5774, abs=1e-4)
    assert together.strength(1, 2) == 0 == together.strength(1, 1)
    assert together.spreading(np.array([[0, 1, 2], [2, -1, 7]], np.int32)) == pytest.approx(
        np.array([[1.3938, 0.8165, 0.5774], [0, 0, 0]]), abs=1e-4
    )
    with pytest.raises(DataError, match="track 5 is outside the catalogue of 3"):
        Cooccurrence(np.array([[0, 5]], np.int32), num_tracks=3)


def test_cooccurrence_is_symmetric_bounded_and_that_of_a_matrix() -> None:
    counts_VV = np.zeros((PLANTED.num_tracks, PLANTED.num_tracks))
    for row in PLANTED.tracks_SK:
        counts_VV[np.ix_(row, row)] += 1
    np.fill_diagonal(counts_VV, 0)
    scale_V = np.maximum(counts_VV.sum(axis=1), 1) ** -0.5
    expected_VV = scale_V[:, None] * counts_VV * scale_V
    assert np.linalg.eigvalsh(expected_VV).max() <= 1 + 1e-12
    assert expected_VV.max() <= 1
    found_SK = Cooccurrence(PLANTED.tracks_SK, PLANTED.num_tracks).spreading(PLANTED.tracks_SK)
    for row, found_K in zip(PLANTED.tracks_SK[::10], found_SK[::10], strict=True):
        assert found_K == pytest.approx(expected_VV[np.ix_(row, row)].sum(axis=1), rel=1e-5)


def test_partial_matching_is_the_product_with_the_others() -> None:
    vectors_VD = np.random.default_rng(0).standard_normal((PLANTED.num_tracks, 8)).astype(np.float32)
    tracks_SK = np.concatenate([PLANTED.tracks_SK[:4], np.full((1, 10), -1, np.int32)])
    tracks_SK[0, 3:] = -1
    vectors_SKD = np.where(tracks_SK[..., None] >= 0, vectors_VD[tracks_SK], 0)
    expected = np.einsum("skd,sjd->sk", vectors_SKD, vectors_SKD) - (vectors_SKD**2).sum(axis=2)
    assert partial_matching(torch.from_numpy(vectors_SKD)).numpy() == pytest.approx(expected, abs=1e-4)
    assert matching_of(tracks_SK, vectors_VD) == pytest.approx(expected, abs=1e-4)


def test_weights_of_equal_components_are_the_mean_and_only_ratios_of_strengths_matter() -> None:
    draw = torch.Generator().manual_seed(0)
    components, mask = torch.rand(3, 5, 3, generator=draw), torch.ones(3, 5)
    mask[1, 3:], mask[2] = 0, 0
    strengths = torch.tensor([0.1, 0.7, 0.2])
    weights = session_weights(components, strengths, mask)
    assert weights.sum(dim=1).tolist() == pytest.approx([1, 1, 0])
    assert weights[1, 3:].tolist() == [0, 0]
    assert torch.allclose(session_weights(components, 50 * strengths, mask), weights, atol=1e-6)
    assert torch.allclose(session_weights(components, strengths, mask, flatten=0)[0], torch.full((5,), 0.2))
    equal = torch.full((1, 4, 3), 0.3)
    assert torch.allclose(session_weights(equal, strengths, torch.ones(1, 4)), torch.full((4,), 0.25))
    order = torch.tensor([4, 0, 3, 1, 2])
    assert torch.allclose(session_weights(components[:1, order], strengths, mask[:1]), weights[:1, order])


@pytest.mark.parametrize("decay", [0.5, 1.0])
@pytest.mark.parametrize("normalised", ["log", "sum"])
def test_levels_of_what_few_plays_tell_are_those_of_dense_sums(decay: float, normalised: str) -> None:
    memory = Memory(decay=decay, keep_plays=2, normalised=normalised)  # type: ignore[arg-type]
    found = base_levels(PLANTED, memory, num_top=3)
    for session in range(0, len(PLANTED.times_S), 7):
        asked = np.array([session])
        shares_V = shares(history_sums(PLANTED, asked, PLANTED.times_S[asked], memory)[0], memory.normalised)
        assert found.levels_SK[session] == pytest.approx(shares_V[PLANTED.tracks_SK[session]], rel=1e-5, abs=1e-9)
        best = np.sort(shares_V)[::-1][:3]
        assert found.top_levels_ST[session] == pytest.approx(best, rel=1e-5, abs=1e-9)
        known = found.top_ST[session] >= 0
        assert shares_V[found.top_ST[session][known]] == pytest.approx(best[known], rel=1e-5)
