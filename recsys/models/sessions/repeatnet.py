"""RepeatNet (Ren et al. 2019): first whether the next track is a repeat, then which one.

P(v) = P(repeat) P(v | repeat) + P(explore) P(v | explore): the repeat decoder has the tracks of the sequence alone, the
explore decoder all others. Positions are added into the catalogue, without the one-hot maps (B × T × V) that make other
programs run out of memory; a step still reads the vectors of the whole catalogue, which is what the model asks for.

Shape suffixes: B sequences, T positions, D width, V tracks, Q questions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recsys.fields import AtLeast
from recsys.models.layers import linear
from recsys.models.sessions.learned import Items, SessionModel, shuffled
from recsys.models.sessions.questions import Questions
from recsys.models.sessions.sequence import TrackSequences, seeded_gru
from recsys.sessions.log import Int64s, SessionLog

Count = Annotated[int, AtLeast(1)]
_LEAST = 1e-12


class Attention(nn.Module):
    """vᵀ tanh(W last + U state) of each position, -∞ where there is padding: (B, T)."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.last, self.state = (linear(width, width, bias=False, generator=generator) for _ in range(2))
        self.value = linear(width, 1, bias=False, generator=generator)

    def forward(self, states_BTD: Tensor, there_BT: Tensor) -> Tensor:
        joined_BTD = torch.tanh(self.last(states_BTD[:, -1:]) + self.state(states_BTD))
        return self.value(joined_BTD).squeeze(2).masked_fill(~there_BT, -1e9)


class Nexts(NamedTuple):
    """Tracks in the order played, -1 in front, and the one after them."""

    inputs_BT: Int64s
    targets_B: Int64s


class RepeatNet(SessionModel):
    """See the module. ``stride`` tracks lie between the ends of two training sequences of a user."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["repeatnet"] = "repeatnet"
        length: Count = 30
        stride: Count = 3
        mode_loss: bool = True

    def __init__(self, config: Config, *, log: SessionLog, embedding_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self._config, self._num_tracks = config, log.num_tracks
        self.know(log)
        self.gru = seeded_gru(embedding_dim, generator)
        self.mode_attention, self.repeat_attention, self.explore_attention = (
            Attention(embedding_dim, generator) for _ in range(3)
        )
        self.mode = linear(embedding_dim, 2, bias=False, generator=generator)
        self.explore = linear(2 * embedding_dim, embedding_dim, bias=False, generator=generator)

    def know(self, log: SessionLog) -> None:
        """See SessionModel."""
        self._sequences = TrackSequences(log, self._config.length, stride=self._config.stride)

    def batches(self, size: int, order: np.random.Generator) -> Iterator[Nexts]:
        """See SessionModel."""
        for rows_BT in shuffled(self._sequences.training(), size, order):
            yield Nexts(rows_BT[:, :-1], rows_BT[:, -1])

    def tracks_of(self, batch: Nexts) -> Int64s:
        """The whole catalogue: the explore decoder is a softmax over it."""
        return np.arange(self._num_tracks)

    def loss(self, items: Items, batch: Nexts) -> Tensor:
        """Negative log-likelihood of the next track, and of the mode that it is of."""
        modes_B2, chances_BV, heard_BV = self._chances(items, batch.inputs_BT)
        targets_B1 = torch.from_numpy(batch.targets_B)[:, None]
        loss = -(chances_BV.gather(1, targets_B1) + _LEAST).log().mean()
        if self._config.mode_loss:
            repeats_B1 = heard_BV.gather(1, targets_B1).long()
            loss = loss - (modes_B2.gather(1, 1 - repeats_B1) + _LEAST).log().mean()
        return loss

    def scores(self, items: Items, questions: Questions) -> Tensor:
        """See SessionModel: the probabilities; with no history at all, those of the explore decoder."""
        return self._chances(items, self._sequences.last(questions))[1]

    def _chances(self, items: Items, inputs_BT: Int64s) -> tuple[Tensor, Tensor, Tensor]:
        """P(repeat) and P(explore) (B, 2), P(v) (B, V), and which tracks have been heard (B, V)."""
        there_BT = torch.from_numpy(inputs_BT >= 0)
        places_BT = torch.from_numpy(np.maximum(inputs_BT, 0))
        states_BTD = self.gru(items.of(inputs_BT))[0]
        heard_BV = torch.zeros(len(inputs_BT), self._num_tracks).scatter_add(1, places_BT, there_BT.float()) > 0
        context_BD = _mean(self.mode_attention(states_BTD, there_BT), states_BTD)
        modes_B2 = self.mode(context_BD).softmax(dim=1)
        weights_BT = self.repeat_attention(states_BTD, there_BT).softmax(dim=1) * there_BT
        repeats_BV = torch.zeros(heard_BV.shape).scatter_add(1, places_BT, weights_BT)
        explored_BD = _mean(self.explore_attention(states_BTD, there_BT), states_BTD)
        query_BD = self.explore(torch.cat([states_BTD[:, -1], explored_BD], dim=1))
        explores_BV = (query_BD @ items.all_UD.T).masked_fill(heard_BV, -1e9).softmax(dim=1)
        chances_BV = modes_B2[:, :1] * repeats_BV + modes_B2[:, 1:] * explores_BV
        return modes_B2, chances_BV, heard_BV


def _mean(logits_BT: Tensor, states_BTD: Tensor) -> Tensor:
    return (logits_BT.softmax(dim=1)[..., None] * states_BTD).sum(dim=1)
