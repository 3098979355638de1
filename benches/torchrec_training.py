"""TorchRec's part of ``benches.training``: its collection, updated by fbgemm in the backward pass.

fbgemm has no Adam on a CPU; row-wise Adagrad is what it has, with a thirtieth of the state to read and write. Its rows
are multiples of four wide: of ten numbers twelve, of which ten are taken.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

with warnings.catch_warnings():  # of each kernel that fbgemm's CPU build leaves out
    warnings.simplefilter("ignore")
    import torchrec
    from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection


class TorchRecTables:
    """A table a feature, one id an example."""

    def __init__(self, num_features: int, ids_each: int, embedding_dim: int, *, learning_rate: float) -> None:
        self._names = [f"C{at}" for at in range(num_features)]
        self._shape = -1, num_features, -(-embedding_dim // 4) * 4
        self._embedding_dim = embedding_dim
        tables = [
            torchrec.EmbeddingBagConfig(
                name=name, embedding_dim=self._shape[-1], num_embeddings=ids_each, feature_names=[name]
            )
            for name in self._names
        ]
        self._tables = FusedEmbeddingBagCollection(
            tables,
            optimizer_type=torchrec.optim.RowWiseAdagrad,
            optimizer_kwargs={"lr": learning_rate},
            device=torch.device("cpu"),
        )

    def features(self, ids: Sequence[npt.NDArray[np.int64]]) -> "torchrec.KeyedJaggedTensor":
        """A batch's ids, by feature."""
        lengths = torch.ones(sum(map(len, ids)), dtype=torch.int32)
        return torchrec.KeyedJaggedTensor(self._names, torch.from_numpy(np.concatenate(ids)), lengths=lengths)

    def __call__(self, features: "torchrec.KeyedJaggedTensor") -> Tensor:
        """Embeddings side by side (B, F × D)."""
        values_BI: Tensor = self._tables(features).values()
        if self._embedding_dim == self._shape[-1]:
            return values_BI
        return values_BI.view(self._shape)[:, :, : self._embedding_dim].flatten(start_dim=1)
