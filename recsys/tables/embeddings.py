"""The tables of one model over one row store: address all, pull once, compose, pool.

Shape suffixes: N ids of a feature over the batch, I distinct ones, K keys an id, U unique keys of a row group, W row
width, B examples, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.batches.batch import Bag
from recsys.errors import ConfigError, DataError
from recsys.hashing import Floats, Keys
from recsys.rows.store import Gradients, RowGroup, RowReader, by_name
from recsys.tables import build_table
from recsys.tables.table import FORMS, Table, TableConfig, a_place_of_each


@dataclass(frozen=True)
class Addressed:
    """Phase one of a lookup: which rows a batch needs, each once, and where each id finds its own."""

    keys: dict[str, Keys]  # unique keys by row group
    counts: dict[str, Keys]  # how often each occurs, of the groups that ask
    places: dict[tuple[str, str], dict[str, Tensor]]  # (table, feature) -> row group -> (N, K) index into the keys
    bags: Mapping[str, Bag]
    pushed_if_used: frozenset[str] = frozenset()  # row groups


@dataclass(frozen=True)
class Looked:
    """Phase two: the rows, as leaves that gradients gather in."""

    addressed: Addressed
    rows: dict[str, Tensor]  # (U, W) by row group

    def gradients(self) -> dict[str, Gradients]:
        """What a push takes, after backward: keys and gradients of every group, and counts where they are asked for.

        A row that had no part in the loss is left out where its table says so.
        """
        return {name: self._gradients(name, rows) for name, rows in self.rows.items()}

    def _gradients(self, name: str, rows: Tensor) -> Gradients:
        keys_U, counts_U = self.addressed.keys[name], self.addressed.counts.get(name)
        gradients_UW = np.zeros(tuple(rows.shape), np.float32) if rows.grad is None else rows.grad.numpy()
        if name in self.addressed.pushed_if_used:
            used_U = gradients_UW.any(axis=1)
            keys_U, gradients_UW = keys_U[used_U], gradients_UW[used_U]
            counts_U = None if counts_U is None else counts_U[used_U]
        return (keys_U, gradients_UW) if counts_U is None else (keys_U, gradients_UW, counts_U)


class Embeddings(nn.Module):
    """Pooled embeddings of bags of ids, for a list of tables.

    Dense parameters that tables bring (TT cores, an MLP) are this module's parameters.
    """

    def __init__(self, configs: Sequence[TableConfig]) -> None:
        super().__init__()
        names = [config.name for config in configs]
        if len(set(names)) != len(names):
            raise ConfigError(f"table names {names} are not distinct; rename one")
        self.tables: Mapping[str, Table] = {config.name: build_table(config) for config in configs}
        self._modules.update({f"table:{name}": table for name, table in self.tables.items()})

    @cached_property
    def groups(self) -> dict[str, RowGroup]:
        """The row groups that a store must hold for these tables."""
        return by_name([group for table in self.tables.values() for group in table.groups])

    def known_bags(self, bags: Mapping[str, Bag]) -> tuple[Mapping[str, Bag], int]:
        """The bags without the ids that a table does not know, and how many those are.

        An id goes with its weight; an id feature becomes an empty bag, as a missing value is.
        """
        kept, num_unknown = dict(bags), 0
        for table in self.tables.values():
            for feature in table.config.feature_names:
                known_N = table.known(feature, torch.from_numpy(kept[feature].ids_N))
                if known_N is not None and not known_N.all():
                    num_unknown += int((~known_N).sum())
                    kept[feature] = _selected(kept[feature], known_N.numpy())
        return kept, num_unknown

    def address(self, bags: Mapping[str, Bag]) -> Addressed:
        """Phase one: unique row keys of the batch, over all tables and features."""
        keys: dict[str, list[Tensor]] = {}
        for table in self.tables.values():
            for feature in table.config.feature_names:
                addressed = table.address(feature, torch.from_numpy(bags[feature].ids_N))
                for group, keys_NK in addressed.items():
                    keys.setdefault(group, []).append(keys_NK)
        unique: dict[str, Keys] = {}
        counts: dict[str, Keys] = {}
        inverses: dict[str, list[Tensor]] = {}
        for group, parts in keys.items():
            keys_U, inverse = torch.unique(torch.cat([part.reshape(-1) for part in parts]), return_inverse=True)
            unique[group] = keys_U.numpy()
            if self.groups[group].counts_occurrences:
                counts[group] = torch.bincount(inverse, minlength=len(keys_U)).numpy()
            pieces = inverse.split([part.numel() for part in parts])
            inverses[group] = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
        places: dict[tuple[str, str], dict[str, Tensor]] = {}
        for table in self.tables.values():
            for feature in table.config.feature_names:
                named = {group.name: inverses[group.name].pop(0) for group in table.groups}
                places[table.config.name, feature] = named
        used = frozenset(name for table in self.tables.values() for name in table.pushed_if_used)
        return Addressed(unique, counts, places, bags, used)

    def look(self, addressed: Addressed, rows: Mapping[str, Floats]) -> Looked:
        """Phase two: pulled rows become leaves of the graph."""
        leaves = {name: torch.from_numpy(rows[name]).requires_grad_() for name in addressed.keys}
        return Looked(addressed, leaves)

    def lookup(self, bags: Mapping[str, Bag], store: RowReader) -> Looked:
        """Both phases: address, then one pull."""
        addressed = self.address(bags)
        return self.look(addressed, store.pull(addressed.keys))

    def pool(self, looked: Looked) -> dict[tuple[str, str], Tensor]:
        """Compose and pool: one (B, D) embedding for each (table, feature)."""
        return {key: self._pooled(looked, *key) for key in looked.addressed.places}

    def vectors(self, feature: str, table: str, looked: Looked) -> Tensor:
        """Compose without pooling: (N, D), one vector an id."""
        bag, places = looked.addressed.bags[feature], looked.addressed.places[table, feature]
        vectors_ND = _composed(self.tables[table], feature, torch.from_numpy(bag.ids_N), places, looked.rows)
        factors_BD = self.tables[table].drawn(feature, len(bag.offsets) - 1)
        if factors_BD is None:
            return vectors_ND
        return vectors_ND * factors_BD.repeat_interleave(torch.from_numpy(np.diff(bag.offsets)), dim=0)

    def embed(self, table: str, feature: str, ids_N: Keys, store: RowReader) -> Tensor:
        """Vectors (N, D) of single ids, from the rows of one table; DataError for an id that it does not know."""
        self._check_known(table, feature, ids_N)
        addressed = self.tables[table].address(feature, torch.from_numpy(ids_N))
        pulled = store.pull({group: keys_NK.reshape(-1).numpy() for group, keys_NK in addressed.items()})
        rows = {group: torch.from_numpy(rows_NW) for group, rows_NW in pulled.items()}
        places = {group: torch.arange(keys_NK.numel()).view(keys_NK.shape) for group, keys_NK in addressed.items()}
        return _composed(self.tables[table], feature, torch.from_numpy(ids_N), places, rows)

    def begin_step(self, seed: int) -> None:
        """A step of training begins: see Table.begin_step."""
        for table in self.tables.values():
            table.begin_step(seed)

    def penalty(self) -> Tensor:
        """The tables' own terms of the loss."""
        return torch.stack([table.penalty() for table in self.tables.values()]).sum()

    def sizes(self, num_rows: Mapping[str, int]) -> dict[str, dict[str, object]]:
        """By table: kind, bytes in training and serving, and how often its full table would hold that.

        ``num_rows``: what the store holds of each group, which counts where a group grows.
        """
        return {name: _sizes(table, num_rows) for name, table in self.tables.items()}

    def _check_known(self, table: str, feature: str, ids_N: Keys) -> None:
        known_N = self.tables[table].known(feature, torch.from_numpy(ids_N))
        if known_N is not None and not known_N.all():
            raise DataError(
                f"feature {feature!r}: id {ids_N[~known_N.numpy()][0]} is outside {self.tables[table].id_range}; raise "
                "the feature's num_embeddings, or use a table kind that takes any id (table=collisionless, hash or "
                "unified)"
            )

    def _pooled(self, looked: Looked, table: str, feature: str) -> Tensor:
        bag = looked.addressed.bags[feature]
        config = self.tables[table].config
        vectors_ND = self.vectors(feature, table, looked)
        num_examples = len(bag.offsets) - 1
        if bag.weights is not None:
            vectors_ND = _weighted(bag.weights, vectors_ND, config)
        if len(vectors_ND) == num_examples and _one_each(bag):
            return vectors_ND  # an id feature: there is nothing to pool
        if len(vectors_ND) == 0:
            return vectors_ND.new_zeros(num_examples, config.embedding_dim) + vectors_ND.sum()
        everything_N = torch.arange(len(vectors_ND))
        offsets = torch.from_numpy(bag.offsets[:-1])
        return functional.embedding_bag(everything_N, vectors_ND, offsets, mode=config.pooling)


def _sizes(table: Table, num_rows: Mapping[str, int]) -> dict[str, object]:
    training, serving = (table.nbytes(form, num_rows) for form in FORMS)
    full_bytes = table.config.full_bytes
    return {
        "kind": table.config.kind,
        "training_bytes": training.total,
        "optimizer_bytes": training.optimizer,
        "serving_bytes": serving.total,
        "compression": full_bytes / serving.total if full_bytes and serving.total else None,
    }


def _composed(
    table: Table, feature: str, ids_N: Tensor, places: Mapping[str, Tensor], rows: Mapping[str, Tensor]
) -> Tensor:
    """Vectors (N, D) of ids whose rows lie at ``places``, (N, K) by row group; each id once where it is worth it."""
    if not table.composes_once:
        return table.compose(feature, ids_N, {g: _gathered(rows[g], place_NK) for g, place_NK in places.items()})
    ids_I, inverse_N = torch.unique(ids_N, return_inverse=True)
    first_I = a_place_of_each(inverse_N, len(ids_I))
    gathered = {group: _gathered(rows[group], place_NK[first_I]) for group, place_NK in places.items()}
    return table.compose(feature, ids_I, gathered).index_select(0, inverse_N)


def _gathered(rows_UW: Tensor, place_NK: Tensor) -> Tensor:
    """rows_UW[place_NK]; the gradient of ``index_select`` takes a third of the time of that of an index."""
    return rows_UW.index_select(0, place_NK.reshape(-1)).view(*place_NK.shape, rows_UW.shape[1])


def _selected(bag: Bag, mask_N: npt.NDArray[np.bool_]) -> Bag:
    """The ids where the mask is true, each still in its example's bag."""
    num_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(mask_N)])
    weights = None if bag.weights is None else bag.weights[mask_N]
    return Bag(bag.ids_N[mask_N], num_before[bag.offsets], weights)


def _weighted(weights_N: Floats, vectors_ND: Tensor, config: TableConfig) -> Tensor:
    """Vectors times the weights of their ids; as in torch, only a sum can be weighted."""
    if config.pooling != "sum":
        raise DataError(f"table {config.name!r}: ids have weights, but pooling is {config.pooling!r}; set pooling: sum")
    return vectors_ND * torch.from_numpy(weights_N)[:, None]


def _one_each(bag: Bag) -> bool:
    return bool((bag.offsets == np.arange(len(bag.offsets))).all())
