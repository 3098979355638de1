"""PISA in reference mode beside a second reading of its equations: plain loops of numpy in 64 bits.

It was written from the description of the paper and of its authors' program, apart from the model; that program itself
(TensorFlow 1) was not run, so that this is parity of two readings, not with its numbers.
"""

import numpy as np
import pytest
import torch

from recsys.models.sessions.learned import Items
from recsys.models.sessions.pisa import Pisa
from recsys.models.sessions.questions import before
from recsys.sessions.log import TEST, TRAIN, VALID, UserSplit
from recsys.sessions.planted import Planted, plant

LOG = plant(Planted(num_users=5, num_sessions=12, num_tracks=120, split=UserSplit(valid=2, test=3))).log
WIDTH, WINDOW, HEADS, LONG_TERM, TOP = 8, 6, 2, 0.4, 7
EPSILON = 1e-8
Values = np.ndarray


def model() -> Pisa:
    config = Pisa.Config(
        mode="reference", window=WINDOW, stride=3, num_heads=HEADS, num_top=TOP, long_term_score=LONG_TERM,
        negative_exponent=0.5,
    )  # fmt: skip
    found = Pisa(config, log=LOG, embedding_dim=WIDTH, generator=torch.Generator().manual_seed(1)).eval()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        found.strengths_C.copy_(torch.tensor([0.7, 0.2, -0.3]))  # one that relu silences
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return found


VECTORS = np.random.default_rng(3).standard_normal((LOG.num_tracks, WIDTH))


class Reading:
    """What the paper says of one user's window, as of a session that opens."""

    def __init__(self, learned: Pisa) -> None:
        self._said = {name: value.detach().double().numpy() for name, value in learned.named_parameters()}

    def base_levels(self, user: int, end: int, time: int) -> Values:
        """softmax(log Σ age^-½) over the history of ``user`` before session ``end``."""
        sums = np.zeros(LOG.num_tracks)
        for session in range(LOG.first_U1[user], end):
            for track in LOG.tracks_SK[session]:
                sums[track] += float(time - LOG.times_S[session]) ** -0.5
        heard = sums > 0
        levels = np.zeros(LOG.num_tracks)
        levels[heard] = np.exp(np.log(sums[heard])) / np.exp(np.log(sums[heard])).sum()
        return levels

    def spreading(self, session: int) -> Values:
        """Of training sessions; of those before the test for a test session."""
        counted = LOG.parts_S == TRAIN if LOG.parts_S[session] != TEST else LOG.parts_S != TEST
        counts = np.zeros((LOG.num_tracks, LOG.num_tracks))
        for tracks in LOG.tracks_SK[counted]:
            for one in tracks:
                for other in tracks:
                    counts[one, other] += one != other
        degrees = counts.sum(axis=1)
        tracks = LOG.tracks_SK[session]
        return np.array([
            sum(counts[one, other] / np.sqrt(degrees[one] * degrees[other])
                for other in tracks if other != one and counts[one, other])
            for one in tracks
        ])  # fmt: skip

    def embedded(self, session: int, levels: Values) -> Values:
        """m_s: weights a^½ / Σ a^½ of the three components."""
        tracks = LOG.tracks_SK[session]
        matching = [sum(VECTORS[one] @ VECTORS[other] for other in tracks if other != one) for one in tracks]
        parts = np.stack([levels[tracks], self.spreading(session), np.array(matching)], axis=1)
        strengths = np.maximum(self._said["strengths_C"], 0) + EPSILON
        flat = ((np.maximum(parts, 0) + EPSILON) @ strengths) ** 0.5
        return (flat / flat.sum()) @ VECTORS[tracks]

    def long_term(self, user: int, levels: Values) -> Values:
        """Σ BL·m over the best known tracks, of unit length; of equal ones, what was heard first."""
        heard = list(dict.fromkeys(LOG.tracks_SK[LOG.first_U1[user] : LOG.first_U1[user + 1]].reshape(-1).tolist()))
        best = sorted(heard, key=lambda track: -np.float32(levels[track]))[:TOP]
        return unit(levels[best] @ VECTORS[best])

    def short_term(self, sessions: list[Values]) -> Values:
        """The transformer's output at every position, of unit length."""
        inputs = np.array(sessions) * np.sqrt(WIDTH) + self._said["blocks.positions"][WINDOW - len(sessions) :]
        for block in range(2):
            inputs = self._block(inputs, f"blocks.blocks.{block}.")
        return np.array([unit(row) for row in inputs])

    def _block(self, inputs: Values, name: str) -> Values:
        queries = self._norm(inputs, name + "norm")
        asked, keys, values = (
            self._linear(of, name + part) for of, part in ((queries, "query"), (inputs, "key"), (inputs, "value"))
        )
        attended, each = np.zeros_like(inputs), WIDTH // HEADS
        for head in range(HEADS):
            own = slice(head * each, (head + 1) * each)
            for position in range(len(inputs)):
                logits = keys[: position + 1, own] @ asked[position, own] / np.sqrt(each)
                odds = np.exp(logits - logits.max())
                attended[position, own] = odds / odds.sum() @ values[: position + 1, own]
        normed = self._norm(queries + attended, name + "norm_forward")
        hidden = np.maximum(self._linear(normed, name + "first"), 0)
        return normed + self._linear(hidden, name + "second")

    def fused(self, lasting: Values, short: Values, session: Values) -> Values:
        """The gate's mixture, and the session past the transformer."""
        logits = self._linear(np.concatenate([lasting, short]), "gate")
        gates = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        return unit(gates[0] * lasting + gates[1] * short + session)

    def _linear(self, inputs: Values, name: str) -> Values:
        return inputs @ self._said[name + ".weight"].T + self._said[name + ".bias"]

    def _norm(self, inputs: Values, name: str) -> Values:
        mean, spread = inputs.mean(axis=1, keepdims=True), inputs.var(axis=1, keepdims=True)
        scaled = (inputs - mean) / np.sqrt(spread + EPSILON)
        return scaled * self._said[name + ".weight"] + self._said[name + ".bias"]


def unit(vector: Values) -> Values:
    return vector / np.linalg.norm(vector)


def items() -> Items:
    return Items(np.arange(LOG.num_tracks), torch.from_numpy(VECTORS.astype(np.float32)))


@pytest.mark.parametrize("part", [VALID, TEST])
def test_scores_are_those_of_the_second_reading(part: int) -> None:
    """Held-out sessions are asked with the base levels of the first test session."""
    learned = model()
    reading = Reading(learned)
    sessions = LOG.sessions_of(part)
    with torch.no_grad():
        found = learned.scores(items(), before(LOG, sessions)).numpy()
    for session, scores in zip(sessions, found, strict=True):
        user = int(LOG.users_S[session])
        frozen = int(LOG.first_U1[user + 1]) - 3
        levels = reading.base_levels(user, frozen, int(LOG.times_S[frozen]))
        embedded = [reading.embedded(earlier, levels) for earlier in range(session - WINDOW, session)]
        lasting = reading.long_term(user, levels)
        z = reading.fused(lasting, reading.short_term(embedded)[-1], embedded[-1])
        assert scores == pytest.approx(VECTORS @ (z + LONG_TERM * lasting), abs=1e-5)


def test_the_loss_is_that_of_the_second_reading() -> None:
    """A window's base levels are those of its last moment at every position; L_sess is divided by its number twice."""
    learned = model()
    reading = Reading(learned)
    batch = next(learned.batches(99, np.random.default_rng(0)))
    parts: dict[str, list[float]] = {"target": [], "z": [], "long": [], "session": []}
    for window, negatives in zip(batch.sessions_BP, batch.negatives_BLK, strict=True):
        there = window[window >= 0]
        user, last = int(LOG.users_S[there[-1]]), int(there[-1])
        levels = reading.base_levels(user, last, int(LOG.times_S[last]))
        embedded = [reading.embedded(int(session), levels) for session in there]
        lasting, short = reading.long_term(user, levels), reading.short_term(embedded[:-1])
        for position in range(len(there) - 1):
            z = reading.fused(lasting, short[position], embedded[position])
            wanted = VECTORS[LOG.tracks_SK[there[position + 1]]]
            others = VECTORS[negatives[len(negatives) - len(there) + 1 + position]]
            for name, query in (("target", embedded[position + 1]), ("z", z), ("long", lasting)):
                parts[name].extend(np.log1p(np.exp(-((wanted - others) @ query))))
            parts["session"].append(1 - z @ unit(embedded[position + 1]))
    song = 0.9 * np.mean(parts["target"]) + 0.1 * np.mean(parts["z"]) + 0.5 * np.mean(parts["long"])
    expected = 0.9 * song + 0.1 * np.mean(parts["session"]) / len(parts["session"])
    assert learned.loss(items(), batch).item() == pytest.approx(expected, abs=1e-5)
