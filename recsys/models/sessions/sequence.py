"""Models of the sequence of tracks, whatever session they are of: SASRec and GRU4Rec.

Shape suffixes: B sequences, T positions, N negatives, D width, V tracks, Q questions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recsys.fields import AtLeast, Between
from recsys.models.sessions.blocks import Blocks
from recsys.models.sessions.learned import Items, Negatives, SessionModel, distinct, masked_mean, shuffled
from recsys.models.sessions.questions import Questions
from recsys.sessions.log import TRAIN, Int64s, SessionLog

Count = Annotated[int, AtLeast(1)]
Weight = Annotated[float, AtLeast(0)]
Dropout = Annotated[float, Between(0, 0.9)]


class Sequences(NamedTuple):
    """Tracks in the order played, -1 in front of short ones; each position's target is the next one's input."""

    inputs_BT: Int64s
    targets_BT: Int64s
    negatives_BTN: Int64s


class TrackSequences:
    """Users' tracks one after the other: their training sequences, cut from the end, and the last before a question."""

    def __init__(self, log: SessionLog, length: int, *, stride: int | None = None) -> None:
        self._log, self._length, self._stride = log, length, stride or length

    def training(self) -> Int64s:
        """Windows of length + 1 tracks of the training sessions, (N, T + 1), their ends ``stride`` apart."""
        rows = []
        for begin, end in zip(self._log.first_U1[:-1], self._log.first_U1[1:], strict=True):
            played = self._played(begin, begin + int((self._log.parts_S[begin:end] == TRAIN).sum()))
            for stop in range(len(played), 1, -self._stride):
                rows.append(self._padded(played[max(0, stop - self._length - 1) : stop], self._length + 1))
        return np.array(rows, np.int64).reshape(-1, self._length + 1)

    def last(self, questions: Questions) -> Int64s:
        """The last tracks before each question: (Q, T)."""
        spans = zip(questions.begins_Q, questions.ends_Q, strict=True)
        rows = [self._padded(self._played(begin, end)[-self._length :], self._length) for begin, end in spans]
        return np.array(rows, np.int64).reshape(-1, self._length)

    def _played(self, begin: int, end: int) -> Int64s:
        tracks_SK = self._log.tracks_SK[begin:end]
        return tracks_SK[tracks_SK >= 0].astype(np.int64)

    def _padded(self, played: Int64s, length: int) -> Int64s:
        return np.concatenate([np.full(length - len(played), -1, np.int64), played])


class SequenceModel(SessionModel):
    """What the two share: sequences, negatives, and the score h·m of the last state."""

    def __init__(self, log: SessionLog, length: int, num_negatives: int, negative_exponent: float) -> None:
        super().__init__()
        self._length, self._num_negatives, self._negative_exponent = length, num_negatives, negative_exponent
        self.know(log)

    def know(self, log: SessionLog) -> None:
        """See SessionModel."""
        self._log, self._sequences = log, TrackSequences(log, self._length)

    def states(self, items: Items, inputs_BT: Int64s) -> Tensor:
        """The state after each position: (B, T, D)."""
        raise NotImplementedError

    def batches(self, size: int, order: np.random.Generator) -> Iterator[Sequences]:
        """See SessionModel."""
        negatives = Negatives(self._log.play_counts(TRAIN), self._negative_exponent)
        for rows_BT in shuffled(self._sequences.training(), size, order):
            inputs_BT, targets_BT = rows_BT[:, :-1], rows_BT[:, 1:]
            shape = (*targets_BT.shape, self._num_negatives)
            yield Sequences(inputs_BT, targets_BT, negatives.draw(shape, targets_BT[..., None], order))

    def tracks_of(self, batch: Sequences) -> Int64s:
        """See SessionModel."""
        return distinct(*batch)

    def logits(self, items: Items, batch: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """h·m of the targets (B, T), of the negatives (B, T, N), and where there is something to tell."""
        states_BTD = self.states(items, batch.inputs_BT)
        positives_BT = (states_BTD * items.of(batch.targets_BT)).sum(dim=2)
        negatives_BTN = (items.of(batch.negatives_BTN) @ states_BTD[..., None]).squeeze(3)
        return positives_BT, negatives_BTN, torch.from_numpy(batch.inputs_BT >= 0).float()

    def scores(self, items: Items, questions: Questions) -> Tensor:
        """See SessionModel."""
        return self.states(items, self._sequences.last(questions))[:, -1] @ items.all_UD.T


class SASRec(SequenceModel):
    """Self-attention over the last tracks (Kang & McAuley 2018): cross-entropy of the next one and a negative."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["sasrec"] = "sasrec"
        length: Count = 50
        num_blocks: Count = 2
        num_heads: Count = 2
        dropout: Dropout = 0.2
        num_negatives: Count = 1
        negative_exponent: Weight = 0.0

    def __init__(self, config: Config, *, log: SessionLog, embedding_dim: int, generator: torch.Generator) -> None:
        super().__init__(log, config.length, config.num_negatives, config.negative_exponent)
        self.blocks = Blocks(
            embedding_dim, length=config.length, num_blocks=config.num_blocks, num_heads=config.num_heads,
            dropout=config.dropout, generator=generator,
        )  # fmt: skip
        self.norm = nn.LayerNorm(embedding_dim, eps=1e-8)

    def states(self, items: Items, inputs_BT: Int64s) -> Tensor:
        """See SequenceModel."""
        states_BTD: Tensor = self.norm(self.blocks(items.of(inputs_BT), torch.from_numpy(inputs_BT >= 0).float()))
        return states_BTD

    def loss(self, items: Items, batch: Sequences) -> Tensor:
        """See SessionModel."""
        positives_BT, negatives_BTN, mask_BT = self.logits(items, batch)
        return masked_mean(softplus(-positives_BT) + softplus(negatives_BTN).mean(dim=2), mask_BT)


class GRU4Rec(SequenceModel):
    """A GRU over the last tracks (Hidasi et al. 2016): cross-entropy of the next one among sampled ones.

    The state goes on from session to session, as in the authors' later work; sequences are cut, where they run whole
    ones in parallel.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["gru4rec"] = "gru4rec"
        length: Count = 50
        num_negatives: Count = 32
        negative_exponent: Weight = 0.5

    def __init__(self, config: Config, *, log: SessionLog, embedding_dim: int, generator: torch.Generator) -> None:
        super().__init__(log, config.length, config.num_negatives, config.negative_exponent)
        self.gru = seeded_gru(embedding_dim, generator)

    def states(self, items: Items, inputs_BT: Int64s) -> Tensor:
        """See SequenceModel; padding is in front, and zeros move a state from zero by biases alone."""
        states_BTD: Tensor = self.gru(items.of(inputs_BT))[0]
        return states_BTD

    def loss(self, items: Items, batch: Sequences) -> Tensor:
        """See SessionModel."""
        positives_BT, negatives_BTN, mask_BT = self.logits(items, batch)
        everything = torch.cat([positives_BT[..., None], negatives_BTN], dim=2)
        return masked_mean(everything.logsumexp(dim=2) - positives_BT, mask_BT)


def seeded_gru(width: int, generator: torch.Generator) -> nn.GRU:
    """A GRU of one layer whose weights are drawn by ``generator``: uniform in ±1/√width, zero biases."""
    with torch.random.fork_rng(devices=[]):  # it draws weights of its own first
        gru = nn.GRU(width, width, batch_first=True)
    for name, parameter in gru.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5, generator=generator)
    return gru
