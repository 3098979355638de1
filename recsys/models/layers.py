"""Layers that the models share. Initial weights come from the generator passed in and from nothing else.

Shape suffixes: B examples, F sparse features, D embedding width, M numeric features, I inputs and O outputs of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.fields import NotEmpty
from recsys.models.inputs import Count, ModelConfig, Probability

HiddenSizes = Annotated[tuple[Count, ...], NotEmpty()]


def linear(num_inputs: int, num_outputs: int, *, bias: bool = True, generator: torch.Generator) -> nn.Linear:
    """A linear layer: Xavier-normal weights (Glorot & Bengio 2010, as in BARS and torchrec), zero bias.

    ``nn.Linear`` alone would draw from torch's global generator, so that a seed would not fix the weights.
    """
    layer = nn.utils.skip_init(nn.Linear, num_inputs, num_outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def xavier(*shape: int, generator: torch.Generator) -> nn.Parameter:
    """A parameter of the last two sizes' Xavier-normal weights, each matrix of the sizes before for itself."""
    weights = torch.empty(shape)
    for matrix in weights.view(-1, *shape[-2:]):
        nn.init.xavier_normal_(matrix, generator=generator)
    return nn.Parameter(weights)


class BatchNorm(nn.BatchNorm1d):
    """torch's batch normalisation (Ioffe & Szegedy 2015) for batches of any size: (B, O) → (B, O).

    One example alone has no variance: in training, too, it is normalised by the running statistics, which learn
    nothing of it. They are the module's only buffers (momentum 0.1, no count of batches): a row store keeps them.
    """

    def __init__(self, num_units: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_units, eps=eps, affine=affine)
        self.num_batches_tracked = None

    def forward(self, inputs_BO: Tensor) -> Tensor:
        """Normalised units; in training the running statistics take a step towards this batch's."""
        if self.training and len(inputs_BO) < 2:
            return functional.batch_norm(
                inputs_BO, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps
            )
        return super().forward(inputs_BO)


class MLP(nn.Module):
    """Hidden layers, each linear → (batch norm) → ReLU → dropout, FuxiCTR's order; no output layer.

    (B, ``num_inputs``) float32 → (B, ``num_outputs``); without hidden layers what came. Dropout, where it is on, draws
    from torch's global generator. ``batch_norm`` takes the statistics of one worker's batch: several then differ from
    one.
    """

    def __init__(
        self,
        num_inputs: int,
        hidden_sizes: Sequence[int],
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [num_inputs, *hidden_sizes]
        for size_in, size_out in pairwise(sizes):
            layers.append(linear(size_in, size_out, generator=generator))
            if batch_norm:
                layers.append(BatchNorm(size_out))
            layers.append(nn.ReLU())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.num_outputs = sizes[-1]
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        return self.layers(inputs_BI)


@dataclass(frozen=True, kw_only=True)
class DeepConfig(ModelConfig):
    """Fields of every model with an MLP: its hidden layers, dropout probability and batch normalisation."""

    hidden_sizes: HiddenSizes = (400, 400, 400)
    dropout: Probability = 0.0
    batch_norm: bool = False


def mlp_of(config: DeepConfig, num_inputs: int, *, generator: torch.Generator) -> MLP:
    """The MLP that a model's config describes."""
    return MLP(
        num_inputs,
        config.hidden_sizes,
        dropout=config.dropout,
        batch_norm=config.batch_norm,
        generator=generator,
    )


class Tower(nn.Module):
    """An MLP and a linear layer to one logit: (B, ``num_inputs``) → (B,)."""

    def __init__(self, num_inputs: int, config: DeepConfig, *, bias: bool = True, generator: torch.Generator) -> None:
        super().__init__()
        self.mlp = mlp_of(config, num_inputs, generator=generator)
        self.output = linear(self.mlp.num_outputs, 1, bias=bias, generator=generator)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        logits_B: Tensor = self.output(self.mlp(inputs_BI)).squeeze(1)
        return logits_B


class FirstOrder(nn.Module):
    """The linear part of a model: Σ_f first_order_f + wᵀ numbers (+ bias): (B, F), (B, M) → (B,); zero at first."""

    def __init__(self, num_numbers: int, *, bias: bool = True) -> None:
        super().__init__()
        self.number_weights = nn.Parameter(torch.zeros(num_numbers))
        self.bias = nn.Parameter(torch.zeros(())) if bias else None

    def forward(self, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        assert first_order_BF.shape[1] > 0, "a linear part needs a first-order value per feature"
        logits_B = first_order_BF.sum(dim=1) + numbers_BM @ self.number_weights
        return logits_B if self.bias is None else logits_B + self.bias


def bi_interaction(embeddings_BFD: Tensor) -> Tensor:
    """The sum of the elementwise products of all pairs: ½ ((Σ_f v)² − Σ_f v²): (B, D) (He & Chua 2017).

    >>> bi_interaction(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[3., 8.]])
    """
    return 0.5 * (embeddings_BFD.sum(dim=1).square() - embeddings_BFD.square().sum(dim=1))


def fm_second_order(embeddings_BFD: Tensor) -> Tensor:
    """Dot products of all pairs of features: ½ Σ_d ((Σ_f v)² − Σ_f v²) (Rendle 2010, Lemma 3.1): (B,).

    The sum over features comes before the square and the sum over d after it. torchrec's
    ``FactorizationMachine`` flattens (F, D) first, and so also multiplies entries of different d.

    >>> fm_second_order(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))  # 1·3 + 2·4
    tensor([11.])
    """
    return bi_interaction(embeddings_BFD).sum(dim=1)
