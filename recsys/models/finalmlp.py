"""FinalMLP: two MLPs over differently gated features, fused bilinearly (Mao et al. 2023, arXiv 2304.00902)::

    x     = [v_1 … v_F, numbers]
    h_k   = 2 σ(MLP_k(context_k)) ⊙ x                                    with gates
    o_k   = MLP_k'(h_k),  k = 1, 2
    logit = b_1 + w_1ᵀ o_1 + b_2 + w_2ᵀ o_2 + Σ_h o_1ʰᵀ W_h o_2ʰ         (each o cut into num_heads chunks)

Where readings differ, this one takes:

- *Context.* The paper's gates read the embeddings of chosen features (``first_context: [user]``) or, where none are
  chosen, a learned vector. BARS gives those features a second table for it, 5,040 ids more on Frappe; here the gates
  read the same embeddings that they gate.
- *Bias.* The paper has one; FuxiCTR one a stream.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I = F·D + M inputs, H heads, S and
T outputs of a chunk of the first and the second stream.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.fields import NotEmpty
from recsys.models.inputs import Count, Inputs, ModelConfig, Probability, flat
from recsys.models.layers import MLP, HiddenSizes, linear, xavier

Names = tuple[Annotated[str, NotEmpty()], ...]


@dataclass(frozen=True, kw_only=True)
class FinalMLPConfig(ModelConfig):
    """Fields of a FinalMLP: those of its two streams, its gates and what they read, and its fusion."""

    kind: Literal["finalmlp"] = "finalmlp"
    first_hidden_sizes: HiddenSizes = (400,)
    second_hidden_sizes: HiddenSizes = (400,)
    first_dropout: Probability = 0.0
    second_dropout: Probability = 0.0
    batch_norm: bool = False
    gates: bool = True
    first_context: Names = ()  # features; none: a learned vector
    second_context: Names = ()
    gate_hidden_sizes: HiddenSizes = (400,)
    num_heads: Count = 1

    def __post_init__(self) -> None:
        for name in ("first_hidden_sizes", "second_hidden_sizes"):
            if getattr(self, name)[-1] % self.num_heads:
                raise ConfigError(
                    f"{name}={list(getattr(self, name))}: the last is no multiple of num_heads={self.num_heads}; "
                    "change one"
                )


class ContextGate(nn.Module):
    """Twice a sigmoid of an MLP over chosen features' embeddings, or over a learned vector: (B, F, D) → (B, I)."""

    def __init__(
        self, context: Names, inputs: Inputs, hidden_sizes: tuple[int, ...], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._places = [inputs.place(name) for name in context]
        self.vector_D = None if context else nn.Parameter(torch.zeros(inputs.embedding_dim))
        num_context = max(1, len(context)) * inputs.embedding_dim
        self.mlp = MLP(num_context, hidden_sizes, generator=generator)
        self.output = linear(self.mlp.num_outputs, inputs.num_flat, generator=generator)

    def forward(self, embeddings_BFD: Tensor) -> Tensor:
        if self.vector_D is not None:
            context_BI = self.vector_D.expand(embeddings_BFD.shape[0], -1)  # len would be a constant to torch.export
        else:
            context_BI = embeddings_BFD[:, self._places].flatten(start_dim=1)
        gates_BI: Tensor = 2 * self.output(self.mlp(context_BI)).sigmoid()
        return gates_BI


class BilinearFusion(nn.Module):
    """b_1 + w_1ᵀ o_1 + b_2 + w_2ᵀ o_2 + Σ_h o_1ʰᵀ W_h o_2ʰ: two streams → (B,)."""

    def __init__(self, num_first: int, num_second: int, num_heads: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.first, self.second = (linear(size, 1, generator=generator) for size in (num_first, num_second))
        self.weights_HST = xavier(num_heads, num_first // num_heads, num_second // num_heads, generator=generator)

    def forward(self, first_BI: Tensor, second_BI: Tensor) -> Tensor:
        first_BHS, second_BHT = (x.unflatten(1, (self._num_heads, -1)) for x in (first_BI, second_BI))
        crossed_B = torch.einsum("bhs,hst,bht->b", first_BHS, self.weights_HST, second_BHT)
        logits_B: Tensor = self.first(first_BI).squeeze(1) + self.second(second_BI).squeeze(1) + crossed_B
        return logits_B


class FinalMLP(nn.Module):
    """Gates, two streams, fusion."""

    Config: ClassVar[type] = FinalMLPConfig

    def __init__(self, config: FinalMLPConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        contexts = [config.first_context, config.second_context] if config.gates else []
        self.gates = nn.ModuleList(
            ContextGate(context, inputs, config.gate_hidden_sizes, generator=generator) for context in contexts
        )
        self.streams = nn.ModuleList(
            MLP(inputs.num_flat, sizes, dropout=dropout, batch_norm=config.batch_norm, generator=generator)
            for sizes, dropout in (
                (config.first_hidden_sizes, config.first_dropout),
                (config.second_hidden_sizes, config.second_dropout),
            )
        )
        self.fusion = BilinearFusion(
            config.first_hidden_sizes[-1], config.second_hidden_sizes[-1], config.num_heads, generator=generator
        )

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        """Logits (B,) from pooled embeddings and numbers."""
        x_BI = flat(embeddings_BFD, numbers_BM)
        gated = [x_BI * gate(embeddings_BFD) for gate in self.gates] or [x_BI, x_BI]
        first_BI, second_BI = (stream(h_BI) for stream, h_BI in zip(self.streams, gated, strict=True))
        logits_B: Tensor = self.fusion(first_BI, second_BI)
        return logits_B
