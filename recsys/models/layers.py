"""Layers that the models share. Initial weights come from the generator passed in and from nothing else.

Shape suffixes: B examples, F sparse features, D embedding width, I inputs and O outputs of a layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def linear(num_inputs: int, num_outputs: int, *, bias: bool = True, generator: torch.Generator) -> nn.Linear:
    """A linear layer: Xavier-normal weights (Glorot & Bengio 2010, as in BARS and torchrec), zero bias.

    ``nn.Linear`` alone would draw from torch's global generator, so that a seed would not fix the weights.
    """
    layer = nn.utils.skip_init(nn.Linear, num_inputs, num_outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Hidden layers, each linear → (batch norm) → ReLU → dropout, FuxiCTR's order; no output layer.

    (B, ``num_inputs``) float32 → (B, ``num_outputs``). Dropout, where it is on, draws from torch's global
    generator. ``batch_norm`` takes the statistics of one worker's batch: several then differ from one.
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
        for size_in, size_out in zip([num_inputs, *hidden_sizes[:-1]], hidden_sizes, strict=True):
            layers.append(linear(size_in, size_out, generator=generator))
            if batch_norm:
                layers.append(nn.BatchNorm1d(size_out))
            layers.append(nn.ReLU())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.num_outputs = hidden_sizes[-1]
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        return self.layers(inputs_BI)


def fm_second_order(embeddings_BFD: Tensor) -> Tensor:
    """Dot products of all pairs of features: ½ Σ_d ((Σ_f v)² − Σ_f v²) (Rendle 2010, Lemma 3.1): (B,).

    The sum over features comes before the square and the sum over d after it. torchrec's
    ``FactorizationMachine`` flattens (F, D) first, and so also multiplies entries of different d.

    >>> fm_second_order(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))  # 1·3 + 2·4
    tensor([11.])
    """
    square_of_sum_BD = embeddings_BFD.sum(dim=1).square()
    sum_of_squares_BD = embeddings_BFD.square().sum(dim=1)
    return 0.5 * (square_of_sum_BD - sum_of_squares_BD).sum(dim=1)
