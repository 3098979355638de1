"""Models of sessions by value where a value is known, else by what they must not see and must not mind."""

from typing import Any

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError, DataError
from recsys.models.sessions import LEARNED, SIMPLE, build_session_config
from recsys.models.sessions.learned import Items, Negatives, bpr, distinct
from recsys.models.sessions.pisa import Pisa
from recsys.models.sessions.questions import as_of_test, before, now
from recsys.models.sessions.sequence import TrackSequences
from recsys.models.sessions.simple import TIFUKNN, UPCF
from recsys.sessions.log import TEST, TRAIN, SessionLog, UserSplit
from recsys.sessions.planted import Planted, plant

LOG = plant(Planted(num_users=8, num_sessions=12, num_tracks=150, split=UserSplit(valid=2, test=3))).log
WIDTH = 8


def vectors(num_tracks: int = LOG.num_tracks) -> torch.Tensor:
    return torch.randn(num_tracks, WIDTH, generator=torch.Generator().manual_seed(3))


def model(kind: str, log: SessionLog = LOG, **fields: Any) -> Any:
    config = build_session_config({"kind": kind, **fields})
    generator = torch.Generator().manual_seed(0)
    return LEARNED[kind](config, log=log, embedding_dim=WIDTH, generator=generator).eval()  # type: ignore[call-arg]


def scores(learned: Any, log: SessionLog, sessions: list[int]) -> np.ndarray:
    with torch.no_grad():
        asked = before(log, np.array(sessions))
        return learned.scores(Items(np.arange(log.num_tracks), vectors(log.num_tracks)), asked).numpy()


def changed(log: SessionLog, session: int, shift_seconds: int = 0) -> SessionLog:
    """The log with other tracks in one session."""
    tracks_SK, times_S = log.tracks_SK.copy(), log.times_S.copy()
    unheard = np.setdiff1d(np.arange(log.num_tracks), log.tracks_SK[log.begins_S[session] :][:12])
    tracks_SK[session] = unheard[: tracks_SK.shape[1]]
    times_S[session] += shift_seconds
    return SessionLog(log.first_U1, times_S, tracks_SK, log.parts_S, log.user_ids, log.track_ids)


@pytest.mark.parametrize("kind", list(LEARNED))
def test_scores_do_not_see_the_session_that_is_asked_for_or_later_ones(kind: str) -> None:
    test = int(LOG.sessions_of(TEST)[0])
    whole = scores(model(kind), LOG, [test])
    assert np.array_equal(scores(model(kind, changed(LOG, test)), changed(LOG, test), [test]), whole)
    later = changed(LOG, test + 1)
    assert np.array_equal(scores(model(kind, later), later, [test]), whole)


@pytest.mark.parametrize("kind", list(LEARNED))
def test_every_model_learns_scores_finitely_and_minds_no_short_history(kind: str) -> None:
    """Sessions of one track, users of one session, and an empty history."""
    tracks_SK = LOG.tracks_SK.copy()
    tracks_SK[::3, 1:] = -1
    first_U1 = np.array([0, 1, *LOG.first_U1[1:]])  # the first user has one session
    ids = list(range(len(first_U1) - 1))
    parts_S = UserSplit(valid=1, test=2).parts(first_U1)
    log = SessionLog(first_U1, LOG.times_S, tracks_SK, parts_S, ids, LOG.track_ids)
    learned = model(kind, log)
    for batch in learned.train().batches(16, np.random.default_rng(0)):
        tracks_U = learned.tracks_of(batch)
        found = learned.loss(Items(tracks_U, vectors()[tracks_U].requires_grad_()), batch)
        found.backward()
        assert torch.isfinite(found)
    assert all(torch.isfinite(p.grad).all() for p in learned.parameters() if p.grad is not None)
    found = scores(learned.eval(), log, [0, 1, 2, 13])  # nothing is known before the first two
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", ["pisa", "actr_bpr"])
def test_scores_change_with_time_alone(kind: str) -> None:
    users = np.array([0])
    items = Items(np.arange(LOG.num_tracks), vectors())
    soon, late = (model(kind).scores(items, now(LOG, users, LOG.times_S[[11]] + age)).detach() for age in (60, 10**8))
    assert (soon - late).abs().max() > 1e-3


def windows(learned: Pisa) -> Any:
    return next(learned.batches(64, np.random.default_rng(0)))


def outputs(learned: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Session embeddings, long-term vectors, z."""
    known, items = learned._known(batch.sessions_BP), Items(np.arange(LOG.num_tracks), vectors())
    _, embedded = learned._embed(items, batch.sessions_BP, known.levels_BPK)
    lasting = learned._long_term(items, known.top_BLT, known.top_levels_BLT)
    return embedded, lasting, learned._fused(embedded[:, :-1], lasting, batch.sessions_BP[:, :-1])


def test_pisa_is_causal_by_position_with_strict_levels_and_not_in_reference() -> None:
    learned = model("pisa", window=6)
    batch = windows(learned)
    other = changed(LOG, int(batch.sessions_BP[0, -2]))
    for mode, causal in (("strict", True), ("reference", False)):
        mine, theirs = model("pisa", window=6, mode=mode), model("pisa", other, window=6, mode=mode)
        theirs._spreading_SK = mine._spreading_SK  # counted over all training sessions: given, as the item table is
        before_it = slice(0, batch.sessions_BP.shape[1] - 3)
        same = torch.equal(outputs(mine, batch)[2][0, before_it], outputs(theirs, batch)[2][0, before_it])
        assert same is causal, mode


def test_pisa_vectors_have_unit_length_and_order_within_a_session_is_nothing() -> None:
    learned = model("pisa", window=6)
    batch = windows(learned)
    embedded, lasting, z = outputs(learned, batch)
    there = torch.from_numpy(batch.sessions_BP[:, :-1] >= 0)
    assert torch.allclose(z.norm(dim=2)[there], torch.ones(()), atol=1e-5)
    assert torch.allclose(lasting.norm(dim=2)[there], torch.ones(()), atol=1e-5)
    tracks_SK = np.random.default_rng(0).permuted(LOG.tracks_SK, axis=1)
    shuffled = SessionLog(LOG.first_U1, LOG.times_S, tracks_SK, LOG.parts_S, LOG.user_ids, LOG.track_ids)
    assert torch.allclose(outputs(model("pisa", shuffled, window=6), batch)[0], embedded, atol=1e-5)


def test_pisa_with_its_gate_at_long_term_is_that_and_the_skip() -> None:
    learned = model("pisa", window=6, long_term_score=0)
    with torch.no_grad():
        learned.gate.weight.zero_()
        learned.gate.bias.copy_(torch.tensor([50.0, -50.0]))
    batch = windows(learned)
    embedded, lasting, z = outputs(learned, batch)
    expected = torch.nn.functional.normalize(lasting + embedded[:, :-1], dim=2)
    assert torch.allclose(z, expected, atol=1e-5)


def test_pisa_embeds_a_session_by_hand() -> None:
    """The components, their weights, and the mean, in a few lines of numpy."""
    learned = model("pisa")
    session = int(LOG.sessions_of(TRAIN)[5])
    items = Items(np.arange(LOG.num_tracks), vectors())
    found = learned._embed(items, np.array([[session]]), learned._levels.levels_SK[[[session]]])[1][0, 0]
    tracks_K = LOG.tracks_SK[session]
    age_S = LOG.times_S[session] - LOG.times_S[LOG.begins_S[session] : session]
    heard = [(LOG.tracks_SK[LOG.begins_S[session] : session] == track).any(axis=1) for track in tracks_K]
    level_K = np.array([(age_S[mask] ** -0.5).sum() for mask in heard]) / (10 * age_S**-0.5).sum()
    vectors_KD = vectors().numpy()[tracks_K]
    match_K = ((vectors_KD.sum(axis=0) - vectors_KD) * vectors_KD).sum(axis=1)
    spread_K = learned._spreading_SK[session]
    sums_K = sum((0.1 + 1e-8) * (np.maximum(part, 0) + 1e-8) for part in (level_K, spread_K, match_K))
    weights_K = sums_K**0.5 / (sums_K**0.5).sum()
    assert found.detach().numpy() == pytest.approx(weights_K @ vectors_KD, abs=1e-5)


def test_reference_freezes_test_levels_and_divides_the_session_loss_twice() -> None:
    tests = LOG.sessions_of(TEST)[:3]
    frozen = as_of_test(LOG, before(LOG, tests))
    assert frozen.ends_Q.tolist() == [tests[0]] * 3 and frozen.times_Q.tolist() == [LOG.times_S[tests[0]]] * 3
    assert as_of_test(LOG, before(LOG, tests - 2)).ends_Q.tolist() == [tests[0]] * 3  # validation too
    reference = model("pisa", mode="reference")
    tops = reference._known_now(before(LOG, tests), tests[:, None] - 1)[1]
    assert (tops == tops[0]).all()
    strict_tops = model("pisa")._known_now(before(LOG, tests), tests[:, None] - 1)[1]
    assert not (strict_tops == strict_tops[0]).all()
    only_session = {"song": 0.0}
    strict, loose = model("pisa", loss=only_session), model("pisa", mode="reference", loss=only_session)
    batch, items = windows(strict), Items(np.arange(LOG.num_tracks), vectors())
    loose._known = strict._known
    loose._spreading_SK = strict._spreading_SK
    number = (batch.sessions_BP[:, :-1] >= 0).sum()
    assert float(loose.loss(items, batch).detach() * number) == pytest.approx(float(strict.loss(items, batch).detach()))


def test_negatives_are_drawn_by_counts_and_not_of_the_target() -> None:
    draw = np.random.default_rng(0)
    counts = np.array([0.0, 1.0, 4.0, 4.0])
    drawn = Negatives(counts, 0.5).draw((40_000, 1), np.full((40_000, 1), 3), draw)
    share = np.bincount(drawn.reshape(-1), minlength=4) / 40_000
    assert share[0] == 0 and share[3] < 0.1
    assert share[2] / share[1] == pytest.approx(2, rel=0.1)
    uniform = Negatives(counts, 0.0).draw((40_000, 1), np.full((40_000, 1), -1), draw)
    assert np.bincount(uniform.reshape(-1)) / 40_000 == pytest.approx([0.25] * 4, abs=0.01)


def test_bpr_and_distinct_by_value() -> None:
    loss = bpr(torch.tensor([2.0, 5.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-1)))
    assert bpr(torch.ones(2), torch.ones(2), torch.zeros(2)).item() == 0
    assert distinct(np.array([[3, -1], [3, 1]])).tolist() == [1, 3]


def test_sequences_end_at_the_training_sessions_end() -> None:
    sequences = TrackSequences(LOG, 4).training()
    played = LOG.tracks_SK[: int((LOG.parts_S[:12] == TRAIN).sum())].reshape(-1)
    assert sequences[0].tolist() == played[-5:].tolist()
    assert sequences[1].tolist() == played[-9:-4].tolist()
    last = TrackSequences(LOG, 15).last(before(LOG, np.array([0, 1, 2])))
    assert last[0].tolist() == [-1] * 15
    assert last[1].tolist() == [-1] * 5 + LOG.tracks_SK[0].tolist()
    assert last[2].tolist() == LOG.tracks_SK[:2].reshape(-1)[-15:].tolist()


def small(*users: list[list[int]]) -> SessionLog:
    tracks_SK = np.array([tracks for user in users for tracks in user], np.int32)
    first_U1 = np.cumsum([0, *map(len, users)])
    times_S = np.concatenate([np.arange(len(user)) for user in users])
    parts_S = UserSplit(valid=0, test=1).parts(first_U1)
    return SessionLog(first_U1, times_S, tracks_SK, parts_S, list(range(len(users))), list(range(6)))


def test_repeatnet_shares_out_all_chance_between_what_was_heard_and_the_rest() -> None:
    learned, items = model("repeatnet", length=12), Items(np.arange(LOG.num_tracks), vectors())
    inputs_BT = np.concatenate([np.full((2, 2), -1), LOG.tracks_SK[:2]], axis=1).astype(np.int64)
    modes_B2, chances_BV, heard_BV = (part.detach() for part in learned._chances(items, inputs_BT))
    assert heard_BV.sum(dim=1).tolist() == [10, 10]
    assert chances_BV.sum(dim=1) == pytest.approx(1, abs=1e-5)
    assert (chances_BV * heard_BV).sum(dim=1).numpy() == pytest.approx(modes_B2[:, 0].numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", list(LEARNED))
def test_nothing_to_learn_is_told(kind: str) -> None:
    lonely = small([[0]], [[2]])
    with pytest.raises(DataError, match="no user has two training sessions"):
        next(iter(model(kind, lonely, **({"length": 5} if kind in ("sasrec", "gru4rec") else {})).batches(4, draw())))


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_up_cf_by_hand() -> None:
    """User 0 has {0, 1, 2}, user 1 {0, 1, 3}: similarity 2/3; user 2 shares nothing."""
    log = small([[0, 1], [0, 2], [5, 5]], [[0, 1], [0, 3], [5, 5]], [[4, 5], [4, 5], [5, 5]])
    config = UPCF.Config(last_sessions=2, locality=2.0, asymmetry=0.5)
    found = UPCF(config, log).scores(before(log, np.array([2])))[0]
    alike = (2 / 3) ** 2
    assert found == pytest.approx([1 + alike, 0.5 + 0.5 * alike, 0.5, 0.5 * alike, 0, 0])


def test_tifu_knn_by_hand() -> None:
    """Groups of 2 from the last session back: the oldest session is a group of its own."""
    log = small([[0, 1], [2, 3], [0, 4], [5, 5]], [[1, 2], [1, 3], [1, 4], [5, 5]])
    config = TIFUKNN.Config(neighbours=1, own=0.75, group_size=2, within=0.9, between=0.5)
    knn = TIFUKNN(config, log)
    own = np.array([0.5 * 0.5 + 0.25, 0.25, 0.225, 0.225, 0.25, 0])
    other = np.array([0, 0.25 + 0.225 + 0.25, 0.25, 0.225, 0.25, 0])
    assert knn.scores(before(log, np.array([3])))[0] == pytest.approx(0.75 * own + 0.25 * other)


@pytest.mark.parametrize("kind", list(SIMPLE))
def test_simple_recommenders_do_not_see_ahead(kind: str) -> None:
    fields = {"kind": kind, **({"memory": {}} if kind == "actr" else {})}
    test = int(LOG.sessions_of(TEST)[0])
    asked = before(LOG, np.array([test]))
    config = build_session_config(fields)
    whole = SIMPLE[kind](config, LOG).scores(asked)
    other = changed(LOG, test)
    assert whole.shape == (1, LOG.num_tracks)
    new = SIMPLE[kind](config, LOG).scores(before(LOG, np.array([0])))[0]
    assert new.tolist() == LOG.play_counts(TRAIN).tolist()  # who has no history is told what is popular
    assert np.array_equal(SIMPLE[kind](config, other).scores(asked), whole)


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match="embedding_dim=8 is no multiple of num_heads=3"):
        model("pisa", num_heads=3)
    with pytest.raises(ConfigError, match=r"session_model: components is empty"):
        model("pisa", components=[])
