"""DCN-V2: a cross network and an MLP, side by side or one after the other.

Wang et al. 2021, arXiv 2008.13535::

    x_0     = [v_1 … v_F, numbers]
    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l                                        (its eq. 1)
    x_{l+1} = x_0 ⊙ (U_l V_lᵀ x_l + b_l) + x_l                                  rank=r
    x_{l+1} = Σ_k G_k(x_l) x_0 ⊙ (U_lk g(C_lk g(V_lkᵀ x_l)) + b_l) + x_l         num_experts=K
    logit   = wᵀ [x_L, MLP(x_0)] + b                  structure: parallel
    logit   = wᵀ MLP(x_L) + b                         structure: stacked
    logit   = wᵀ x_L + b                              structure: cross

Where readings of the paper differ, this one takes:

- *Version.* V1 (``dcn.py``) has a vector w_l: x_0 (w_lᵀ x_l) + b_l + x_l. torchrec's ``CrossNet`` is V2 though
  it cites V1; its ``VectorCrossNet`` is V1.
- *Structure.* The paper's Figure 1 has both, and which is better depends on the data. Parallel is the
  default, as in BARS; the MLP of the stacked form reads x_L alone. ``cross`` is BARS's "CrossNetv2".
- *Mixture.* One gate an expert, shared by the layers, softmax over the experts, and one bias a layer, as in torchrec
  and FuxiCTR; g is tanh as in FuxiCTR (torchrec's default is ReLU). The low-rank form alone has neither g nor C.
- *First order.* The paper has no separate linear term, since the cross network passes x_0 on. ``first_order``
  adds Σ_f first_order_f + uᵀ numbers for those who want a wide part.
- *Batch normalisation.* In the MLP only, and off by default; the BARS recipe turns it on.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I = F·D + M inputs, K experts,
R rank.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.models.inputs import Count, Inputs, flat
from recsys.models.layers import MLP, DeepConfig, linear, xavier


@dataclass(frozen=True, kw_only=True)
class DCNv2Config(DeepConfig):
    """Fields of a DCN-V2: how cross network and MLP are joined, their sizes, and a linear term.

    ``rank`` makes the cross matrices products of two narrow ones; ``num_experts`` mixes several such.
    """

    kind: Literal["dcnv2"] = "dcnv2"
    structure: Literal["parallel", "stacked", "cross"] = "parallel"
    num_cross_layers: Count = 3
    rank: Count | None = None
    num_experts: Count = 1
    first_order: bool = False

    def __post_init__(self) -> None:
        if self.num_experts > 1 and self.rank is None:
            raise ConfigError(f"num_experts={self.num_experts} mixes low-rank layers; set rank, or num_experts=1")

    @property
    def needs_first_order(self) -> bool:
        """See ModelConfig."""
        return self.first_order


class CrossNetwork(nn.Module):
    """``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l``, layer upon layer: (B, I) → (B, I); with a rank, W_l = U_l V_lᵀ."""

    def __init__(
        self, num_inputs: int, num_layers: int, rank: int | None = None, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            linear(num_inputs, num_inputs, generator=generator)
            if rank is None
            else nn.Sequential(
                linear(num_inputs, rank, bias=False, generator=generator),
                linear(rank, num_inputs, generator=generator),
            )
            for _ in range(num_layers)
        )

    def forward(self, x0_BI: Tensor) -> Tensor:
        x_BI = x0_BI
        for layer in self.layers:
            x_BI = x0_BI * layer(x_BI) + x_BI
        return x_BI


class CrossExperts(nn.Module):
    """One layer's ``Σ_k G_k U_k tanh(C_k tanh(V_kᵀ x)) + b``: (B, I) and gates (B, K) that sum to 1 → (B, I)."""

    def __init__(self, num_inputs: int, rank: int, num_experts: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.down_KRI = xavier(num_experts, rank, num_inputs, generator=generator)
        self.inner_KRR = xavier(num_experts, rank, rank, generator=generator)
        self.up_KIR = xavier(num_experts, num_inputs, rank, generator=generator)
        self.bias_I = nn.Parameter(torch.zeros(num_inputs))

    def forward(self, x_BI: Tensor, gates_BK: Tensor) -> Tensor:
        narrow_BKR = torch.einsum("bi,kri->bkr", x_BI, self.down_KRI).tanh()
        inner_BKR = torch.einsum("bkr,ksr->bks", narrow_BKR, self.inner_KRR).tanh()
        mixed_BI = torch.einsum("bkr,kir,bk->bi", inner_BKR, self.up_KIR, gates_BK)
        return mixed_BI + self.bias_I


class CrossMixture(nn.Module):
    """The cross network of low-rank experts: (B, I) → (B, I)."""

    def __init__(
        self, num_inputs: int, num_layers: int, rank: int, num_experts: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.gates = linear(num_inputs, num_experts, bias=False, generator=generator)
        self.layers = nn.ModuleList(
            CrossExperts(num_inputs, rank, num_experts, generator=generator) for _ in range(num_layers)
        )

    def forward(self, x0_BI: Tensor) -> Tensor:
        x_BI = x0_BI
        for layer in self.layers:
            x_BI = x0_BI * layer(x_BI, self.gates(x_BI).softmax(dim=1)) + x_BI
        return x_BI


class DCNv2(nn.Module):
    """Cross network and MLP over the concatenated embeddings and numbers, into one logit per example.

    >>> model = DCNv2(
    ...     DCNv2Config(hidden_sizes=(4,), structure="stacked"),
    ...     Inputs(feature_names=("user", "item"), embedding_dim=3, num_numbers=1),
    ...     generator=torch.Generator().manual_seed(0),
    ... )
    >>> model(torch.zeros(5, 2, 3), torch.zeros(5, 0), torch.zeros(5, 1)).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    Config: ClassVar[type] = DCNv2Config

    def __init__(self, config: DCNv2Config, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        num_inputs = inputs.num_flat
        self.cross = _cross_network(config, num_inputs, generator)
        self.mlp = MLP(
            num_inputs,
            () if config.structure == "cross" else config.hidden_sizes,
            dropout=config.dropout,
            batch_norm=config.batch_norm,
            generator=generator,
        )
        num_joined = self.mlp.num_outputs + (num_inputs if config.structure == "parallel" else 0)
        self.output = linear(num_joined, 1, generator=generator)
        self.number_weights = nn.Parameter(torch.zeros(inputs.num_numbers)) if config.first_order else None

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings, first-order values ((B, 0) unless configured), and numbers."""
        x0_BI = flat(embeddings_BFD, numbers_BM)
        crossed_BI = self.cross(x0_BI)
        if self.config.structure == "parallel":
            joined_BI = torch.cat([crossed_BI, self.mlp(x0_BI)], dim=1)
        else:
            joined_BI = self.mlp(crossed_BI)  # of structure cross, what comes
        logits_B = self.output(joined_BI).squeeze(1)
        if self.number_weights is None:
            return logits_B
        assert first_order_BF.shape == embeddings_BFD.shape[:2], "first_order needs one value per feature"
        return logits_B + first_order_BF.sum(dim=1) + numbers_BM @ self.number_weights


def _cross_network(config: DCNv2Config, num_inputs: int, generator: torch.Generator) -> nn.Module:
    if config.num_experts == 1:
        return CrossNetwork(num_inputs, config.num_cross_layers, config.rank, generator=generator)
    assert config.rank is not None
    return CrossMixture(num_inputs, config.num_cross_layers, config.rank, config.num_experts, generator=generator)
