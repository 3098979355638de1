"""AutoInt: self-attention over features; AutoInt+: with an MLP beside it (Song et al. 2019, arXiv 1810.11921)::

    head    = softmax(Q Kᵀ) V                  Q, K, V = X W_q, X W_k, X W_v of each head
    X'      = ReLU([head_1 … head_H] + residual)
    logit   = wᵀ [x_1 … x_F, numbers] + b (+ MLP([v_1 … v_F, numbers])) (+ Σ_f w_f[id] + uᵀ numbers)

Where readings differ, this one takes:

- *Residual.* The paper has a matrix W_res in every layer; FuxiCTR only where a layer changes the width: 128 → 128 adds
  X itself. BARS's counts say the latter, and so it is here.
- *Scale.* ``scale`` divides Q Kᵀ by the root of a head's size (Vaswani et al. 2017); the paper does not.
- *Layer normalisation.* ``layer_norm`` normalises before the ReLU; the paper has none.
- *Wide.* ``first_order`` adds a linear part; the paper has none.
- *Plus.* ``hidden_sizes`` not empty is the paper's AutoInt+.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, H heads, A attention size over all
heads.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.models.inputs import Count, Inputs, Probability, flat
from recsys.models.layers import DeepConfig, FirstOrder, Tower, linear


@dataclass(frozen=True, kw_only=True)
class AutoIntConfig(DeepConfig):
    """Fields of an AutoInt: its attention layers, and its MLP's, which has no layers unless it is AutoInt+."""

    kind: Literal["autoint"] = "autoint"
    num_layers: Count = 3
    num_heads: Count = 2
    attention_size: Count = 32  # over all heads
    attention_dropout: Probability = 0.0  # of the attention weights
    residual: bool = True
    scale: bool = False
    layer_norm: bool = False
    first_order: bool = False
    hidden_sizes: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if self.attention_size % self.num_heads:
            raise ConfigError(
                f"attention_size={self.attention_size} is no multiple of num_heads={self.num_heads}; change one"
            )

    @property
    def needs_first_order(self) -> bool:
        """See ModelConfig."""
        return self.first_order


class SelfAttention(nn.Module):
    """One layer: (B, F, ``num_inputs``) → (B, F, A)."""

    def __init__(self, num_inputs: int, config: AutoIntConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        size = config.attention_size
        self._num_heads = config.num_heads
        self._divisor = (size / config.num_heads) ** 0.5 if config.scale else 1.0
        self.query, self.key, self.value = (linear(num_inputs, size, bias=False, generator=generator) for _ in range(3))
        self.residual: nn.Module | None = None
        if config.residual:
            changes = num_inputs != size
            self.residual = linear(num_inputs, size, bias=False, generator=generator) if changes else nn.Identity()
        self.norm = nn.LayerNorm(size) if config.layer_norm else nn.Identity()
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(self, x_BFD: Tensor) -> Tensor:
        queries, keys, values = (self._heads(part(x_BFD)) for part in (self.query, self.key, self.value))
        scores_BHFF = queries @ keys.transpose(2, 3) / self._divisor
        heads = self.dropout(scores_BHFF.softmax(dim=3)) @ values
        joined_BFA = heads.transpose(1, 2).flatten(start_dim=2)
        if self.residual is not None:
            joined_BFA = joined_BFA + self.residual(x_BFD)
        return self.norm(joined_BFA).relu()

    def _heads(self, x_BFA: Tensor) -> Tensor:
        return x_BFA.unflatten(2, (self._num_heads, -1)).transpose(1, 2)


class AutoInt(nn.Module):
    """Attention layers, and beside them what the config adds, summed into one logit per example."""

    Config: ClassVar[type] = AutoIntConfig

    def __init__(self, config: AutoIntConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        widths = [inputs.embedding_dim] + [config.attention_size] * (config.num_layers - 1)
        self.attention = nn.Sequential(*(SelfAttention(width, config, generator=generator) for width in widths))
        num_attended = inputs.num_features * config.attention_size + inputs.num_numbers
        self.output = linear(num_attended, 1, generator=generator)
        self.tower = Tower(inputs.num_flat, config, generator=generator) if config.hidden_sizes else None
        self.first_order = FirstOrder(inputs.num_numbers, bias=False) if config.first_order else None

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values ((B, 0) unless configured), and numbers."""
        attended_BI = flat(self.attention(embeddings_BFD), numbers_BM)
        logits_B: Tensor = self.output(attended_BI).squeeze(1)
        if self.tower is not None:
            logits_B = logits_B + self.tower(flat(embeddings_BFD, numbers_BM))
        if self.first_order is not None:
            logits_B = logits_B + self.first_order(first_order_BF, numbers_BM)
        return logits_B
