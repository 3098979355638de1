"""PISA (Tran et al. 2024): sessions as ACT-R-weighted means, a transformer over them, a long-term vector, a gate.

``mode=strict`` (the default) knows nothing that was not known as a session opened: base levels are live, each at its
own session's time over what came before it. ``mode=reference`` does what the authors' program does, where that matters
for parity: a whole window has the base levels of its last moment, so that earlier positions see later plays; validation
and test have those of the first test session; the session loss is divided by its number twice; negatives are drawn by
counts that include held-out sessions. Written from the paper and a description of its program.

Shape suffixes: B windows, L positions, P = L + 1 sessions of a window, K tracks a session, T top tracks, D width,
V tracks, Q questions, C components.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from recsys.errors import ConfigError
from recsys.fields import AtLeast, Between
from recsys.hashing import Floats
from recsys.models.layers import linear
from recsys.models.sessions.actr import Cooccurrence, Memory, base_levels, partial_matching, session_weights
from recsys.models.sessions.blocks import Blocks
from recsys.models.sessions.learned import Items, Negatives, SessionModel, bpr, distinct, masked_mean, shuffled
from recsys.models.sessions.longterm import levels_of, top_levels
from recsys.models.sessions.questions import Questions, as_of_test, before
from recsys.sessions.log import TEST, TRAIN, VALID, Int32s, Int64s, SessionLog

Count = Annotated[int, AtLeast(1)]
Share = Annotated[float, Between(0, 1)]
Weight = Annotated[float, AtLeast(0)]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """song·(target·BPR(target session) + (1-target)·BPR(z) + long_term·BPR(lt)) + (1-song)·(1 - cos(z, next))."""

    song: Share = 0.9
    target: Share = 0.9
    long_term: Weight = 0.5


class Windows(NamedTuple):
    """Sessions of users, the last one to be told from those before it; -1 in front of short ones."""

    sessions_BP: Int64s
    negatives_BLK: Int64s


class Known(NamedTuple):
    """What memory says of windows: base levels of their tracks, and the top of the history for each position."""

    levels_BPK: Floats
    top_BLT: Int32s
    top_levels_BLT: Floats


class Pisa(SessionModel):
    """See the module. A position that has no session yet has the long-term vector alone."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["pisa"] = "pisa"
        memory: Memory = field(default_factory=Memory)
        mode: Literal["strict", "reference"] = "strict"
        window: Count = 20
        stride: Count = 5
        num_blocks: Count = 2
        num_heads: Count = 2
        dropout: Annotated[float, Between(0, 0.9)] = 0.0
        num_top: Count = 20
        flatten: Weight = 0.5
        long_term_score: Weight = 0.5
        negative_exponent: Weight = 0.0
        components: tuple[Literal["base_level", "spreading", "partial_matching"], ...] = (
            "base_level", "spreading", "partial_matching",
        )  # fmt: skip
        loss: LossWeights = field(default_factory=LossWeights)

        def __post_init__(self) -> None:
            if not self.components:
                raise ConfigError("components is empty; name some of base_level, spreading, partial_matching")

    def __init__(self, config: Config, *, log: SessionLog, embedding_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        if embedding_dim % config.num_heads:
            raise ConfigError(f"embedding_dim={embedding_dim} is no multiple of num_heads={config.num_heads}")
        self._config = config
        self._strict = config.mode == "strict"
        self.strengths_C = nn.Parameter(torch.full((len(config.components),), 0.1))
        self.blocks = Blocks(
            embedding_dim, length=config.window, num_blocks=config.num_blocks, num_heads=config.num_heads,
            dropout=config.dropout, generator=generator,
        )  # fmt: skip
        self.gate = linear(2 * embedding_dim, 2, generator=generator)
        self.together = Cooccurrence(log.tracks_SK[log.parts_S == TRAIN], log.num_tracks)
        self.know(log)
        if not self._strict:  # the test matrix has validation sessions too
            later = Cooccurrence(log.tracks_SK[log.parts_S != TEST], log.num_tracks).spreading(log.tracks_SK)
            self._spreading_SK[log.parts_S == TEST] = later[log.parts_S == TEST]

    def know(self, log: SessionLog) -> None:
        """See SessionModel."""
        assert self.together is not None
        self._log, self._spreading_SK = log, self.together.spreading(log.tracks_SK)
        self._levels = base_levels(log, self._config.memory, num_top=self._config.num_top)

    def batches(self, size: int, order: np.random.Generator) -> Iterator[Windows]:
        """See SessionModel: windows that end at a training session, ``stride`` apart from the last one back."""
        counted = (TRAIN,) if self._strict else (TRAIN, VALID, TEST)
        negatives = Negatives(self._log.play_counts(*counted), self._config.negative_exponent)
        for sessions_BP in shuffled(self._windows(), size, order):
            targets_BLK = self._tracks(sessions_BP)[:, 1:]
            yield Windows(sessions_BP, negatives.draw(targets_BLK.shape, targets_BLK, order))

    def tracks_of(self, batch: Windows) -> Int64s:
        """See SessionModel."""
        known = self._known(batch.sessions_BP)
        return distinct(self._tracks(batch.sessions_BP), known.top_BLT, batch.negatives_BLK)

    def loss(self, items: Items, batch: Windows) -> Tensor:
        """See SessionModel."""
        said, tracks_BPK = self._config.loss, self._tracks(batch.sessions_BP)
        known = self._known(batch.sessions_BP)
        vectors_BPKD, embedded_BPD = self._embed(items, batch.sessions_BP, known.levels_BPK)
        long_BLD = self._long_term(items, known.top_BLT, known.top_levels_BLT)
        z_BLD = self._fused(embedded_BPD[:, :-1], long_BLD, batch.sessions_BP[:, :-1])
        positives_BLKD, negatives_BLKD = vectors_BPKD[:, 1:], items.of(batch.negatives_BLK)
        asked_BL = torch.from_numpy(batch.sessions_BP[:, :-1] >= 0).float()
        mask_BLK = torch.from_numpy(tracks_BPK[:, 1:] >= 0) * asked_BL[..., None]

        def ranked(query_BLD: Tensor) -> Tensor:
            return bpr(_dot(query_BLD, positives_BLKD), _dot(query_BLD, negatives_BLKD), mask_BLK)

        song = said.target * ranked(embedded_BPD[:, 1:]) + (1 - said.target) * ranked(z_BLD)
        song = song + said.long_term * ranked(long_BLD)
        next_BLD = normalize(embedded_BPD[:, 1:], dim=2)
        session = masked_mean(1 - (z_BLD * next_BLD).sum(dim=2), asked_BL)
        if not self._strict:
            session = session / asked_BL.sum().clamp_min(1)
        return said.song * song + (1 - said.song) * session

    def scores(self, items: Items, questions: Questions) -> Tensor:
        """See SessionModel: z·m + long_term_score · lt·m, in one product."""
        return self.queries(items, questions) @ items.all_UD.T

    def queries(self, items: Items, questions: Questions) -> Tensor:
        """z + long_term_score · lt of the last position, (Q, D): what an index of items is asked with."""
        sessions_QL = self._last(questions)
        levels_QLK, top_QT, top_levels_QT = self._known_now(questions, sessions_QL)
        _, embedded_QLD = self._embed(items, sessions_QL, levels_QLK)
        lasting_QLD = self._long_term(items, top_QT[:, None], top_levels_QT[:, None]).expand_as(embedded_QLD)
        z_QLD = self._fused(embedded_QLD, lasting_QLD, sessions_QL)
        return z_QLD[:, -1] + self._config.long_term_score * lasting_QLD[:, -1]

    def _embed(self, items: Items, sessions_BP: Int64s, levels_BPK: Floats) -> tuple[Tensor, Tensor]:
        """Vectors of the tracks of sessions, and their weighted means."""
        tracks_BPK = self._tracks(sessions_BP)
        vectors_BPKD = items.of(tracks_BPK)
        parts = {
            "base_level": lambda: torch.from_numpy(levels_BPK),
            "spreading": lambda: torch.from_numpy(self._spreading_SK[sessions_BP]),
            "partial_matching": lambda: partial_matching(vectors_BPKD),
        }
        components_BPKC = torch.stack([parts[name]() for name in self._config.components], dim=-1)
        there_BPK = torch.from_numpy(tracks_BPK >= 0).float()
        weights_BPK = session_weights(components_BPKC, self.strengths_C, there_BPK, self._config.flatten)
        return vectors_BPKD, (weights_BPK[..., None] * vectors_BPKD).sum(dim=2)

    def _long_term(self, items: Items, top_BLT: Int32s, top_levels_BLT: Floats) -> Tensor:
        weighted = torch.from_numpy(top_levels_BLT)[..., None] * items.of(top_BLT)
        return normalize(weighted.sum(dim=-2), dim=-1)

    def _fused(self, embedded_BLD: Tensor, long_BLD: Tensor, sessions_BL: Int64s) -> Tensor:
        short_BLD = normalize(self.blocks(embedded_BLD, torch.from_numpy(sessions_BL >= 0).float()), dim=2)
        gates_BL2 = self.gate(torch.cat([long_BLD, short_BLD], dim=2)).softmax(dim=2)
        mixed_BLD = gates_BL2[..., :1] * long_BLD + gates_BL2[..., 1:] * short_BLD
        return normalize(mixed_BLD + embedded_BLD, dim=2)

    def _tracks(self, sessions_BP: Int64s) -> Int32s:
        found: Int32s = np.where(sessions_BP[..., None] >= 0, self._log.tracks_SK[sessions_BP], -1)
        return found

    def _windows(self) -> Int64s:
        log, said = self._log, self._config
        rows = []
        for begin, end in zip(log.first_U1[:-1], log.first_U1[1:], strict=True):
            stop = begin + int((log.parts_S[begin:end] == TRAIN).sum())
            for last in range(stop - 1, begin, -said.stride):
                sessions_P = np.arange(last - said.window, last + 1)
                rows.append(np.where(sessions_P >= begin, sessions_P, -1))
                if last - said.window <= begin:
                    break
        return np.array(rows, np.int64).reshape(-1, said.window + 1)

    def _known(self, sessions_BP: Int64s) -> Known:
        if self._strict:
            levels, targets_BL = self._levels, sessions_BP[:, 1:]
            return Known(levels.levels_SK[sessions_BP], levels.top_ST[targets_BL], levels.top_levels_ST[targets_BL])
        ends = before(self._log, sessions_BP[:, -1])  # the window's last moment, for all of its positions
        levels_BPK, top_BT, top_levels_BT = self._known_now(ends, sessions_BP)
        length = sessions_BP.shape[1] - 1
        tops = np.repeat(top_BT[:, None], length, axis=1), np.repeat(top_levels_BT[:, None], length, axis=1)
        return Known(levels_BPK, *tops)

    def _known_now(self, questions: Questions, sessions_QP: Int64s) -> tuple[Floats, Int32s, Floats]:
        """Base levels of the tracks of sessions, and the top of the history, as some questions are asked."""
        asked = questions if self._strict else self._frozen(questions)
        memory, num_top = self._config.memory, self._config.num_top
        if self._strict:
            return self._levels.levels_SK[sessions_QP], *top_levels(self._log, asked, memory, num_top)
        tracks_QPK = self._tracks(sessions_QP)
        wanted_QN = tracks_QPK.reshape(len(asked), -1)
        levels_QN, top_QT, top_levels_QT = levels_of(self._log, asked, memory, num_top, wanted_QN)
        return levels_QN.reshape(tracks_QPK.shape), top_QT, top_levels_QT

    def _frozen(self, questions: Questions) -> Questions:
        """Held-out sessions are asked as the first test session opens; training windows as they are."""
        held_out_Q = questions.ends_Q >= self._log.first_U1[questions.users_Q] + self._num_training[questions.users_Q]
        frozen = as_of_test(self._log, questions)
        ends_Q = np.where(held_out_Q, frozen.ends_Q, questions.ends_Q)
        times_Q = np.where(held_out_Q, frozen.times_Q, questions.times_Q)
        return Questions(questions.users_Q, questions.begins_Q, ends_Q, times_Q)

    @property
    def _num_training(self) -> Int64s:
        trained_S = self._log.parts_S == TRAIN
        return np.bincount(self._log.users_S[trained_S], minlength=self._log.num_users)

    def _last(self, questions: Questions) -> Int64s:
        """The last sessions before each question, -1 in front where there are fewer."""
        sessions_QL = questions.ends_Q[:, None] + np.arange(-self._config.window, 0)
        return np.where(sessions_QL >= questions.begins_Q[:, None], sessions_QL, -1)


def _dot(query_BLD: Tensor, vectors_BLKD: Tensor) -> Tensor:
    return (query_BLD[:, :, None] * vectors_BLKD).sum(dim=3)
