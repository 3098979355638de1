"""DIN: a user's history, weighed by how each of it concerns the item shown (Zhou et al. 2018, arXiv 1706.06978)::

    a_n   = MLP_a([h_n, t, h_n − t, h_n ⊙ t])              h_n: the history's n-th vector, t: the target's
    u     = Σ_n a_n h_n
    logit = wᵀ MLP([v_1 … v_F with u for each history's pooled vector, numbers]) + b

Every bag or sequence feature that reads the table of an id feature is a history of it (films liked: of the film shown);
``targets`` may say otherwise. The others stay pooled.

Where readings differ, this one takes:

- *Softmax.* The paper leaves the weights as they are, to keep the strength of an interest; the authors' code
  normalises. ``softmax`` is off by default. An example without a history has u = 0 either way.
- *Unit.* The paper's has the outer product of h and t; the authors' code, and others after it, what stands above.
- *Activation.* ``activation``: dice (the paper's: PReLU whose break follows the batch's mean and variance), prelu, or
  relu, in both MLPs. Dice keeps statistics, as batch normalisation does.
- *Regularisation.* The paper's mini-batch aware L2 touches the rows of a batch alone: an optimizer's ``weight_decay``
  here is of the whole table.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, N vectors of a history over the
batch, O units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, unknown
from recsys.models.inputs import BagVectors, Inputs, ModelConfig, Probability, flat
from recsys.models.layers import BatchNorm, HiddenSizes, linear

Activation = Literal["dice", "prelu", "relu"]


@dataclass(frozen=True, kw_only=True)
class DINConfig(ModelConfig):
    """Fields of a DIN: which feature is a history of which, its attention unit, and its MLP's."""

    kind: Literal["din"] = "din"
    targets: Mapping[str, str] = field(default_factory=dict)  # history -> target; none: those that share a table
    attention_hidden_sizes: HiddenSizes = (64,)
    softmax: bool = False
    activation: Activation = "dice"
    hidden_sizes: HiddenSizes = (200, 80)
    dropout: Probability = 0.0

    @property
    def needs_bag_vectors(self) -> bool:
        """Yes."""
        return True


class Dice(nn.Module):
    """``p(s) s + (1 − p(s)) α s`` with p = σ of s, normalised over the batch: (N, O) → (N, O)."""

    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.norm = BatchNorm(num_units, eps=1e-8, affine=False)
        self.slopes_O = nn.Parameter(torch.zeros(num_units))

    def forward(self, units_NO: Tensor) -> Tensor:
        on_NO = self.norm(units_NO).sigmoid()
        return on_NO * units_NO + (1 - on_NO) * self.slopes_O * units_NO


class InterestMLP(nn.Module):
    """Hidden layers of the chosen activation and a linear one to a number: (N, ``num_inputs``) → (N,)."""

    def __init__(
        self,
        num_inputs: int,
        hidden_sizes: Sequence[int],
        activation: Activation,
        dropout: float = 0.0,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [num_inputs, *hidden_sizes]
        for size_in, size_out in pairwise(sizes):
            layers += [linear(size_in, size_out, generator=generator), _activation(activation, size_out)]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, linear(sizes[-1], 1, generator=generator))

    def forward(self, inputs_NI: Tensor) -> Tensor:
        outputs_N: Tensor = self.layers(inputs_NI).squeeze(1)
        return outputs_N


class HistoryAttention(nn.Module):
    """A history's vectors summed by how they concern the target: (N, D) and (B, D) → (B, D)."""

    def __init__(self, embedding_dim: int, config: DINConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self._softmax = config.softmax
        self.unit = InterestMLP(
            4 * embedding_dim, config.attention_hidden_sizes, config.activation, generator=generator
        )

    def forward(self, history: BagVectors, targets_BD: Tensor) -> Tensor:
        vectors_ND, examples_N = history
        targets_ND = targets_BD[examples_N]
        pairs_NI = torch.cat([vectors_ND, targets_ND, vectors_ND - targets_ND, vectors_ND * targets_ND], dim=1)
        weights_N = self.unit(pairs_NI)
        if self._softmax:
            weights_N = _softmax_within(weights_N, examples_N, len(targets_BD))
        return torch.zeros_like(targets_BD).index_add(0, examples_N, weights_N[:, None] * vectors_ND)


class DIN(nn.Module):
    """Attention for each history, and an MLP over everything."""

    Config: ClassVar[type] = DINConfig

    def __init__(self, config: DINConfig, inputs: Inputs, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        targets = config.targets or {name: target for name, target in inputs.targets.items() if target is not None}
        _check_histories(targets, inputs)
        self._histories = [(name, inputs.place(name), inputs.place(target)) for name, target in targets.items()]
        self.attention = nn.ModuleList(
            HistoryAttention(inputs.embedding_dim, config, generator=generator) for _ in self._histories
        )
        self.mlp = InterestMLP(
            inputs.num_flat, config.hidden_sizes, config.activation, config.dropout, generator=generator
        )

    def forward(
        self,
        embeddings_BFD: Tensor,
        first_order_BF: Tensor,
        numbers_BM: Tensor,
        bag_vectors: Mapping[str, BagVectors],
    ) -> Tensor:
        """Logits (B,) from pooled embeddings, numbers, and the vectors of every bag before pooling."""
        features = list(embeddings_BFD.unbind(dim=1))
        for attention, (name, place, target) in zip(self.attention, self._histories, strict=True):
            features[place] = attention(bag_vectors[name], embeddings_BFD[:, target])
        logits_B: Tensor = self.mlp(flat(torch.stack(features, dim=1), numbers_BM))
        return logits_B


def _check_histories(targets: Mapping[str, str], inputs: Inputs) -> None:
    """ConfigError where there is no history, or one is no bag."""
    if not targets:
        raise ConfigError(
            "model.kind='din' needs a history, and no bag or sequence feature reads the table of an id feature; "
            "declare one with table: of the item's, name it in model.targets, or take another model (model=dnn)"
        )
    for name in targets:
        if name not in inputs.targets:
            raise unknown("history in model.targets:", name, inputs.targets)


def _activation(kind: Activation, num_units: int) -> nn.Module:
    if kind == "relu":
        return nn.ReLU()
    return Dice(num_units) if kind == "dice" else nn.PReLU(num_units)


def _softmax_within(scores_N: Tensor, examples_N: Tensor, num_examples: int) -> Tensor:
    """Scores to weights that sum to 1 within each example."""
    highest_B = scores_N.new_full((num_examples,), -torch.inf).scatter_reduce(0, examples_N, scores_N.detach(), "amax")
    exponentials_N = (scores_N - highest_B[examples_N]).exp()
    sums_B = exponentials_N.new_zeros(num_examples).index_add(0, examples_N, exponentials_N)
    return exponentials_N / sums_B[examples_N]
