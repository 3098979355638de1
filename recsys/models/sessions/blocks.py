"""SASRec's self-attention blocks, as PISA has them too (Kang & McAuley 2018, section 3.2; PISA's code).

LayerNorm is on the queries alone, keys and values are raw; the residual adds the *normalised* query; there is no output
projection; the feed-forward layer adds its normalised input.

Shape suffixes: B sequences, T positions, H heads, D width.
"""

import math

import torch
from torch import Tensor, nn

from recsys.models.layers import linear


class Block(nn.Module):
    """(B, T, D) → (B, T, D), causal: a position sees itself and those before it."""

    def __init__(self, width: int, num_heads: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.norm, self.norm_forward = nn.LayerNorm(width, eps=1e-8), nn.LayerNorm(width, eps=1e-8)
        self.query, self.key, self.value, self.first, self.second = (
            linear(width, width, generator=generator) for _ in range(5)
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, inputs_BTD: Tensor, there_BT: Tensor) -> Tensor:
        queries_BTD = self.norm(inputs_BTD)
        attended_BTD = queries_BTD + self.dropout(self._attend(queries_BTD, inputs_BTD, there_BT))
        normed_BTD = self.norm_forward(attended_BTD)
        forward_BTD = self.second(self.dropout(self.first(normed_BTD).relu()))
        return (normed_BTD + self.dropout(forward_BTD)) * there_BT[..., None]

    def _attend(self, queries_BTD: Tensor, inputs_BTD: Tensor, there_BT: Tensor) -> Tensor:
        heads = [self._split(part) for part in (self.query(queries_BTD), self.key(inputs_BTD), self.value(inputs_BTD))]
        query_BHTD, key_BHTD, value_BHTD = heads
        logits_BHTT = query_BHTD @ key_BHTD.transpose(2, 3) / math.sqrt(query_BHTD.shape[-1])
        seen_BTT = torch.ones(inputs_BTD.shape[1], inputs_BTD.shape[1]).tril().bool() & there_BT[:, None, :].bool()
        # a position of padding sees nothing: uniform weights, and its output is masked
        weights_BHTT = logits_BHTT.masked_fill(~seen_BTT[:, None], -1e9).softmax(dim=-1)
        return (weights_BHTT @ value_BHTD).transpose(1, 2).flatten(2)

    def _split(self, whole_BTD: Tensor) -> Tensor:
        return whole_BTD.unflatten(2, (self._num_heads, -1)).transpose(1, 2)


class Blocks(nn.Module):
    """Learned positions and some blocks; inputs are scaled by √D. Sequences end at the last position."""

    def __init__(
        self, width: int, *, length: int, num_blocks: int, num_heads: int, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(length, width).normal_(0, 0.02, generator=generator))
        self.blocks = nn.ModuleList([Block(width, num_heads, dropout, generator) for _ in range(num_blocks)])

    def forward(self, inputs_BTD: Tensor, there_BT: Tensor) -> Tensor:
        """``there_BT`` is 0 where there is only padding."""
        num_positions = inputs_BTD.shape[1]
        scaled_BTD = inputs_BTD * math.sqrt(inputs_BTD.shape[2]) + self.positions[-num_positions:]
        states_BTD = scaled_BTD * there_BT[..., None]
        for block in self.blocks:
            states_BTD = block(states_BTD, there_BT)
        return states_BTD
