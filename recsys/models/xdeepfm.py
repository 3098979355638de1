"""xDeepFM: a compressed interaction network (CIN), a linear part and an MLP (Lian et al. 2018, arXiv 1803.05170)::

    X^0       = [v_1 … v_F]                                                    (F, D)
    X^k_h     = act(Σ_ij W^k_hij (X^{k-1}_i ⊙ X^0_j) + b^k_h)                  (its eq. 6)
    logit     = Σ_f w_f[id] + uᵀ numbers + wᵀ [Σ_d X^1, …, Σ_d X^K] + b + MLP([v_1 … v_F, numbers])

Where readings differ, this one takes:

- *Activation.* ``cin_activation``: none in the paper's equation and in FuxiCTR (and BARS), ReLU by default in DeepCTR.
- *Split.* ``split_half`` sends half of every layer's rows on and the other half to the output, as DeepCTR does by
  default; otherwise, as in the paper and in FuxiCTR, all go both ways.
- *Bias.* CIN rows have one (FuxiCTR; the paper's have none).
- *MLP.* Without hidden layers (``hidden_sizes: []``) there is none: BARS's "CIN".

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, H rows of a CIN layer.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.models.inputs import Count, Inputs, WithLinearPart, flat
from recsys.models.layers import DeepConfig, FirstOrder, HiddenSizes, Tower, linear


@dataclass(frozen=True, kw_only=True)
class XDeepFMConfig(WithLinearPart, DeepConfig):
    """Fields of an xDeepFM: the rows of its CIN layers, and its MLP's, which may have none."""

    kind: Literal["xdeepfm"] = "xdeepfm"
    cin_sizes: HiddenSizes = (64,)
    cin_activation: Literal["none", "relu"] = "none"
    split_half: bool = False
    hidden_sizes: tuple[Count, ...] = (400, 400, 400)

    def __post_init__(self) -> None:
        if self.split_half and any(size % 2 for size in self.cin_sizes[:-1]):
            raise ConfigError(f"cin_sizes={list(self.cin_sizes)}: split_half halves all but the last; make them even")


class CIN(nn.Module):
    """Embeddings (B, F, D) → the sums over D of every layer's rows, side by side: (B, ``num_outputs``)."""

    def __init__(self, num_features: int, config: XDeepFMConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.layers, self._kept = nn.ModuleList(), list[int]()
        num_rows = num_features
        for place, size in enumerate(config.cin_sizes):
            self.layers.append(linear(num_rows * num_features, size, generator=generator))
            halves = config.split_half and place < len(config.cin_sizes) - 1
            num_rows = size // 2 if halves else size
            self._kept.append(num_rows if halves else 0)  # the rows from here on go to the output
        self.num_outputs = sum(size - kept for size, kept in zip(config.cin_sizes, self._kept, strict=True))

    def forward(self, embeddings_BFD: Tensor) -> Tensor:
        rows_BHD, pooled = embeddings_BFD, []
        for layer, kept in zip(self.layers, self._kept, strict=True):
            products_BHFD = rows_BHD[:, :, None] * embeddings_BFD[:, None]
            rows_BHD = layer(products_BHFD.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
            if self.config.cin_activation == "relu":
                rows_BHD = rows_BHD.relu()
            pooled.append(rows_BHD[:, kept:].sum(dim=2))
            rows_BHD = rows_BHD[:, :kept] if kept else rows_BHD
        return torch.cat(pooled, dim=1)


class XDeepFM(nn.Module):
    """First order, CIN and MLP, summed into one logit per example."""

    Config: ClassVar[type] = XDeepFMConfig

    def __init__(self, config: XDeepFMConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.first_order = FirstOrder(inputs.num_numbers, bias=False)
        self.cin = CIN(inputs.num_features, config, generator=generator)
        self.cin_output = linear(self.cin.num_outputs, 1, generator=generator)
        self.tower = Tower(inputs.num_flat, config, generator=generator) if config.hidden_sizes else None

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values, and numbers."""
        linear_B: Tensor = self.first_order(first_order_BF, numbers_BM)
        logits_B = linear_B + self.cin_output(self.cin(embeddings_BFD)).squeeze(1)
        return logits_B if self.tower is None else logits_B + self.tower(flat(embeddings_BFD, numbers_BM))
