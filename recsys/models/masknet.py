"""MaskNet: blocks whose inputs are masked by what the whole example says (Wang et al. 2021, arXiv 2102.07619)::

    x        = [v_1 … v_F, numbers]
    block(h) = ReLU(LN(W (mask(x) ⊙ h)))        mask(x) = W_2 ReLU(W_1 x + b_1) + b_2
    logit    = wᵀ MLP([block_1(h_0) … block_K(h_0)]) + b             structure: parallel
    logit    = wᵀ block_K(… block_1(h_0)) + b                        structure: serial

Where readings differ, this one takes:

- *Layer normalisation of embeddings.* The mask reads raw embeddings, the body h_0 optionally normalised ones, each
  feature for itself: ``embedding_layer_norm``, on in the paper, off in BARS and by default.
- *Widths.* A parallel model has ``num_blocks`` of ``block_size``, then an MLP of ``hidden_sizes``; a serial one has a
  block for each of ``hidden_sizes`` and no MLP, as in FuxiCTR.
- *Mask.* Its hidden layer is ``reduction_ratio`` times as wide as what is masked (FuxiCTR), not as what it reads.
- *Bias.* A block's own layer has none, as in FuxiCTR: its layer normalisation has one.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I = F·D + M inputs, O outputs.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.fields import Above
from recsys.models.inputs import Count, Inputs, flat
from recsys.models.layers import DeepConfig, Tower, linear


@dataclass(frozen=True, kw_only=True)
class MaskNetConfig(DeepConfig):
    """Fields of a MaskNet: how its blocks stand, their sizes and norms, and its MLP's."""

    kind: Literal["masknet"] = "masknet"
    structure: Literal["parallel", "serial"] = "parallel"
    num_blocks: Count = 3  # of parallel
    block_size: Count = 64  # of parallel
    reduction_ratio: Annotated[float, Above(0)] = 2.0
    embedding_layer_norm: bool = False
    layer_norm: bool = True

    def __post_init__(self) -> None:
        if self.structure == "serial" and self.batch_norm:
            raise ConfigError("structure=serial has no MLP for batch_norm=true; set batch_norm: false")


class FeatureNorm(nn.Module):
    """Layer normalisation of each feature's embedding, with gains and biases of its own: (B, F, D) → (B, F, D)."""

    def __init__(self, num_features: int, embedding_dim: int) -> None:
        super().__init__()
        self.gains_FD = nn.Parameter(torch.ones(num_features, embedding_dim))
        self.biases_FD = nn.Parameter(torch.zeros(num_features, embedding_dim))

    def forward(self, embeddings_BFD: Tensor) -> Tensor:
        normal_BFD = functional.layer_norm(embeddings_BFD, embeddings_BFD.shape[2:])
        return normal_BFD * self.gains_FD + self.biases_FD


class MaskBlock(nn.Module):
    """A masked layer: x (B, I) and what is masked (B, ``num_masked``) → (B, O)."""

    def __init__(
        self, num_inputs: int, num_masked: int, num_outputs: int, config: MaskNetConfig, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        num_hidden = max(1, int(num_masked * config.reduction_ratio))
        self.mask = nn.Sequential(
            linear(num_inputs, num_hidden, generator=generator),
            nn.ReLU(),
            linear(num_hidden, num_masked, generator=generator),
        )
        self.hidden = nn.Sequential(
            linear(num_masked, num_outputs, bias=False, generator=generator),
            nn.LayerNorm(num_outputs) if config.layer_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )

    def forward(self, x_BI: Tensor, masked_BI: Tensor) -> Tensor:
        outputs_BO: Tensor = self.hidden(self.mask(x_BI) * masked_BI)
        return outputs_BO


class MaskNet(nn.Module):
    """Mask blocks side by side under an MLP, or one upon the other."""

    Config: ClassVar[type] = MaskNetConfig

    def __init__(self, config: MaskNetConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        num_inputs = inputs.num_flat
        self.norm = FeatureNorm(inputs.num_features, inputs.embedding_dim) if config.embedding_layer_norm else None
        self.head: nn.Module
        if config.structure == "parallel":
            sizes = [(num_inputs, config.block_size)] * config.num_blocks
            self.head = Tower(config.num_blocks * config.block_size, config, generator=generator)
        else:
            sizes = list(pairwise([num_inputs, *config.hidden_sizes]))
            self.head = nn.Sequential(linear(config.hidden_sizes[-1], 1, generator=generator), nn.Flatten(0))
        self.blocks = nn.ModuleList(
            MaskBlock(num_inputs, size_in, size_out, config, generator=generator) for size_in, size_out in sizes
        )

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        x_BI = flat(embeddings_BFD, numbers_BM)
        body_BI = x_BI if self.norm is None else flat(self.norm(embeddings_BFD), numbers_BM)
        if self.config.structure == "parallel":
            body_BI = torch.cat([block(x_BI, body_BI) for block in self.blocks], dim=1)
        else:
            for block in self.blocks:
                body_BI = block(x_BI, body_BI)
        logits_B: Tensor = self.head(body_BI)
        return logits_B
