"""The TorchRec-shaped front of the tables: a drop-in for ``torchrec.EmbeddingBagCollection``.

The only module that imports torchrec. What goes in and comes out is TorchRec's (``KeyedJaggedTensor``,
``KeyedTensor``); the rows live in a row store and are updated by its optimizer, at ``push``.

Shape suffixes: B examples, N ids of one feature over the batch, D embedding dimension.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from recsys import hashing
from recsys.batches.batch import Bag
from recsys.errors import ConfigError, DataError, DependencyError, unknown
from recsys.hashing import Floats, Keys
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Adagrad, Optimizer
from recsys.rows.store import RowStore
from recsys.tables.embeddings import Embeddings, Looked
from recsys.tables.full import FullConfig
from recsys.tables.table import Pooling, TableConfig
from recsys.tables.unified import UnifiedConfig

try:
    with warnings.catch_warnings():
        # fbgemm's CPU build tells of the operators that it lacks
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"fbgemm_gpu\.")
        import torchrec
        from torchrec.modules import embedding_modules
        from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor
        from torchrec.sparse.tensor_dict import maybe_td_to_kjt
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "torchrec":
        raise
    raise DependencyError(
        "torchrec is not installed; run: pip install --no-deps torchrec==1.8.0 (or `make install`)"
    ) from error

_DEFAULT_OPTIMIZER = Adagrad(learning_rate=0.01)
_POOLINGS: dict[torchrec.PoolingType, Pooling] = {
    torchrec.PoolingType.SUM: "sum",
    torchrec.PoolingType.MEAN: "mean",
}


class EmbeddingBagCollection(nn.Module):
    """Pooled embeddings of a ``KeyedJaggedTensor``: a ``KeyedTensor`` of TorchRec's keys, order and lengths.

    ``tables`` are table configs of any kind; a ``torchrec.EmbeddingBagConfig`` stands for kind ``full``,
    updated by ``optimizer`` (Adagrad, learning_rate 0.01) and started by ``seed``. ``store`` must hold the
    row groups of the tables; without one, the collection makes its own in this process. ``is_weighted``
    multiplies each id's vector by the feature's weights before they are summed.

    Rows are leaves of the autograd graph, gathered by each forward. After ``loss.backward()`` call ``push``:
    it hands the store the gradients of all backwards since the last push. Dense parameters that tables bring
    (TT cores, an MLP) are in ``parameters()``, for a torch optimizer. Raises ConfigError for a configuration
    that can not be, DataError for features that do not fit.

    >>> from recsys.rows.optimizers import SGD
    >>> config = torchrec.EmbeddingBagConfig(
    ...     name="item", num_embeddings=10, embedding_dim=2, feature_names=["shown", "liked"]
    ... )
    >>> collection = EmbeddingBagCollection(tables=[config], optimizer=SGD(learning_rate=1.0))
    >>> features = KeyedJaggedTensor(  # shown: [3], [4]; liked: [3, 3], nothing
    ...     keys=["shown", "liked"], values=torch.tensor([3, 4, 3, 3]), lengths=torch.tensor([1, 1, 2, 0])
    ... )
    >>> before = collection(features)
    >>> before.keys(), tuple(before.values().shape)
    (['shown', 'liked'], (2, 4))
    >>> before.values().sum().backward()
    >>> collection.push(event_time_ms=0)
    >>> change = collection(features)["shown"] - before["shown"]
    >>> change.round().tolist()  # row 3 was read three times, row 4 once
    [[-3.0, -3.0], [-1.0, -1.0]]
    """

    def __init__(
        self,
        tables: Sequence[TableConfig | torchrec.EmbeddingBagConfig],
        store: RowStore | None = None,
        *,
        is_weighted: bool = False,
        optimizer: Optimizer = _DEFAULT_OPTIMIZER,
        seed: int = 0,
    ) -> None:
        super().__init__()
        configs = [_as_table(table, optimizer, seed) for table in tables]
        if is_weighted:
            _check_weighted(configs)
        self.embeddings = Embeddings(configs)
        self.store = LocalRows(list(self.embeddings.groups.values())) if store is None else store
        self._check_store()
        self._configs, self._is_weighted = configs, is_weighted
        self._columns = [(config.name, feature) for config in configs for feature in config.feature_names]
        names_by_table = embedding_modules.get_embedding_names_by_table(configs)
        self._names: list[str] = [name for names in names_by_table for name in names]
        self._lengths = [config.embedding_dim for config in configs for _ in config.feature_names]
        self._touched: dict[int, tuple[str, Keys, Tensor]] = {}

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Address, one pull, compose, pool."""
        features = maybe_td_to_kjt(features, None)
        looked = self.embeddings.lookup(self._bags(features), self.store)
        if torch.is_grad_enabled():
            self._watch(looked)
        pooled = self.embeddings.pool(looked)
        order = embedding_modules.reorder_inverse_indices(
            features.inverse_indices_or_none(), [feature for _, feature in self._columns]
        )
        values_BD = embedding_modules.process_pooled_embeddings([pooled[key] for key in self._columns], order)
        return KeyedTensor(keys=self._names, length_per_key=self._lengths, values=values_BD)

    def push(self, event_time_ms: int) -> None:
        """Give the store the gradients of every backward since the last push; rows used twice sum theirs.

        ``event_time_ms`` stamps the touched rows. Without a backward since, nothing happens.
        """
        parts: dict[str, list[tuple[Keys, Floats]]] = {}
        for group, keys_U, rows_UW in self._touched.values():
            assert rows_UW.grad is not None
            parts.setdefault(group, []).append((keys_U, rows_UW.grad.numpy()))
        if not parts:
            return
        gradients = {group: _concatenated(pieces) for group, pieces in parts.items()}
        self.store.push(gradients, event_time_ms)
        self.discard_gradients()

    def discard_gradients(self) -> None:
        """Forget the gradients since the last push, as ``zero_grad`` does for dense parameters."""
        for _, _, rows_UW in self._touched.values():
            rows_UW.grad = None
        self._touched.clear()

    def is_weighted(self) -> bool:
        """Whether features' weights are used."""
        return self._is_weighted

    def embedding_bag_configs(self) -> list[TableConfig]:
        """The tables, as this project's configs."""
        return list(self._configs)

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def _bags(self, features: KeyedJaggedTensor) -> dict[str, Bag]:
        named: dict[str, JaggedTensor] = features.to_dict()
        missing = sorted({feature for _, feature in self._columns} - set(named))
        if missing:
            reason = f"features {', '.join(missing)} are missing; the tensor has {', '.join(named)}"
            raise DataError(reason)
        return {feature: self._bag(feature, named[feature]) for _, feature in self._columns}

    def _bag(self, feature: str, jagged: JaggedTensor) -> Bag:
        ids_N, offsets = jagged.values().long().numpy(), jagged.offsets().long().numpy()
        if not self._is_weighted:
            return Bag(ids_N, offsets)
        weights_N = jagged.weights_or_none()
        if weights_N is None:
            reason = f"feature {feature!r} has no weights; give them, or build with is_weighted=False"
            raise DataError(reason)
        if weights_N.requires_grad:
            reason = f"the weights of feature {feature!r} want a gradient, and get none here; detach() them"
            raise DataError(reason)
        return Bag(ids_N, offsets, weights_N.float().numpy())

    def _watch(self, looked: Looked) -> None:
        """Have each leaf report when a backward reaches it: a forward without one leaves nothing behind."""
        for group, rows_UW in looked.rows.items():
            keys_U = looked.addressed.keys[group]
            rows_UW.register_post_accumulate_grad_hook(functools.partial(self._touch, group, keys_U))

    def _touch(self, group: str, keys_U: Keys, rows_UW: Tensor) -> None:
        self._touched[id(rows_UW)] = (group, keys_U, rows_UW)

    def _check_store(self) -> None:
        for name, group in self.embeddings.groups.items():
            if self.store.groups.get(name) != group:
                reason = (
                    f"the store's row group {name!r} is {self.store.groups.get(name)}, the table's is "
                    f"{group}; build the store with Embeddings(tables).groups"
                )
                raise ConfigError(reason)


def unified_in_torchrec(
    config: UnifiedConfig, num_rows: int
) -> tuple[torchrec.EmbeddingBagConfig, Callable[[KeyedJaggedTensor], KeyedJaggedTensor]]:
    """A stock table that is this ``unified`` one, and what rewrites features for it.

    Each chunk of a feature is a key of its own, ``feature#chunk``, with the feature's ids hashed into ``num_rows``; the
    chunks of a feature, side by side, are its embedding without the zeros at the end.
    """
    seeds = {f"{f}#{at}": (f, seed) for f in config.feature_names for at, seed in enumerate(config.chunk_seeds(f))}
    stock = torchrec.EmbeddingBagConfig(
        name=config.name,
        num_embeddings=num_rows,
        embedding_dim=config.row_width,
        feature_names=list(seeds),
        pooling=next(stock for stock, ours in _POOLINGS.items() if ours == config.pooling),
    )

    def rewrite(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        parts = [(features[feature], seed) for feature, seed in seeds.values()]
        hashed = [hashing.hash_to_range(part.values().long().numpy(), num_rows, seed) for part, seed in parts]
        lengths = torch.cat([part.lengths() for part, _ in parts])
        return KeyedJaggedTensor(keys=list(seeds), values=torch.from_numpy(np.concatenate(hashed)), lengths=lengths)

    return stock, rewrite


def _as_table(table: TableConfig | torchrec.EmbeddingBagConfig, optimizer: Optimizer, seed: int) -> TableConfig:
    if isinstance(table, TableConfig):
        return table
    if table.data_type != torchrec.DataType.FP32:
        reason = f"table {table.name!r}: data_type {table.data_type} is not FP32, the only one trained here"
        raise ConfigError(reason)
    if table.pooling not in _POOLINGS:
        what = f"pooling of table {table.name!r}:"
        raise unknown(what, table.pooling, _POOLINGS)
    return FullConfig(
        name=table.name,
        embedding_dim=table.embedding_dim,
        num_embeddings=table.num_embeddings,
        feature_names=tuple(table.feature_names) or (table.name,),  # as torchrec
        pooling=_POOLINGS[table.pooling],
        optimizer=optimizer,
        initial=Initial(scale=_initial_scale(table)),
        seed=hashing.seed_of(seed, table.name),
    )


def _initial_scale(table: torchrec.EmbeddingBagConfig) -> float:
    """The c of torchrec's uniform start in [-c, c); other starts are restored into the store instead."""
    low, high = table.get_weight_init_min(), table.get_weight_init_max()
    uniform = isinstance(table.init_fn, functools.partial) and table.init_fn.func is nn.init.uniform_
    if not uniform or not math.isclose(low, -high):
        reason = (
            f"table {table.name!r}: rows start uniform in [-c, c), not by init_fn or in [{low}, {high}); "
            "leave these out, and restore your own weights into the store (recsys.rows.store.fresh_rows)"
        )
        raise ConfigError(reason)
    return high


def _check_weighted(configs: Sequence[TableConfig]) -> None:
    for config in configs:
        if config.pooling != "sum":
            reason = f"table {config.name!r}: is_weighted needs pooling 'sum', not {config.pooling!r}"
            raise ConfigError(reason)


def _concatenated(pieces: list[tuple[Keys, Floats]]) -> tuple[Keys, Floats]:
    if len(pieces) == 1:
        return pieces[0]
    keys, gradients = zip(*pieces, strict=True)
    return np.concatenate(keys), np.concatenate(gradients)
