"""What a trained supernet keeps, and how good it is at given widths (OptEmbed).

Shape suffixes: N ids of a table, D embedding dimension.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from recsys.errors import ConfigError, DataError
from recsys.fields import build
from recsys.hashing import Floats
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.store import RowReader
from recsys.tables.kept_map import Bools, KeptIds, KeptMap
from recsys.tables.optembed import OptEmbed, OptEmbedPlan
from recsys.tables.plan import TablePlan
from recsys.training.evolution import Candidate, Space
from recsys.training.fit import Examples
from recsys.training.metrics import summary
from recsys.training.stage import with_table_of

_IDS_PER_PULL = 1 << 18
_EXAMPLES_PER_BATCH = 4096


def pruning_tables(recommender: Recommender) -> dict[str, OptEmbed]:
    """The tables of a supernet that have thresholds, by name."""
    return {
        name: table
        for name, table in recommender.embeddings.tables.items()
        if isinstance(table, OptEmbed) and table.prunes
    }


def kept_share(recommender: Recommender, store: RowReader) -> dict[str, float]:
    """The part of all ids whose rows are above their thresholds now: a point of the pruning curve, ``kept``."""
    kept = kept_flags(recommender, store)
    if not kept:
        return {}
    num_ids = sum(len(is_kept_N) for is_kept_N in kept.values())
    return {"kept": sum(int(is_kept_N.sum()) for is_kept_N in kept.values()) / num_ids}


def kept_flags(recommender: Recommender, store: RowReader) -> dict[str, Bools]:
    """Of each id whether its row, decayed up to now, is above the threshold: bool (N,) by table.

    DataError where a threshold is no number.
    """
    return {name: _kept_of(table, store) for name, table in pruning_tables(recommender).items()}


def _kept_of(table: OptEmbed, store: RowReader) -> Bools:
    group, threshold_group = table.groups[0].name, table.threshold_group
    threshold = store.pull({threshold_group: np.zeros(1, np.int64)})[threshold_group][0, 0]
    if not np.isfinite(threshold):
        raise DataError(
            f"the threshold of table {table.config.name!r} is {threshold}: its training diverged; lower "
            "table.threshold_rate or the optimizer's learning rates, and train anew"
        )
    parts = []
    for start in range(0, table.num_embeddings, _IDS_PER_PULL):
        ids_N = np.arange(start, min(table.num_embeddings, start + _IDS_PER_PULL))
        rows_ND = torch.from_numpy(store.pull({group: ids_N})[group])
        parts.append(table.keeps(rows_ND, torch.tensor(float(threshold))).numpy())
    return np.concatenate(parts)


class Fitness:
    """AUC of a trained supernet on validation examples, at widths that are given, with its pruned rows gone.

    Which rows a batch reads does not depend on widths: they are read once, and held with the batches.
    """

    def __init__(self, recommender: Recommender, store: RowReader, kept: Mapping[str, Bools], valid: Examples) -> None:
        self._recommender = recommender.eval()
        self._kept = {name: torch.from_numpy(is_kept_N) for name, is_kept_N in kept.items()}
        self._tables = pruning_tables(recommender)
        self._prune_companions()
        self.choose(tuple(table.config.embedding_dim for table in self._tables.values()))
        planned = [recommender.plan(batch) for batch in valid.batches(_EXAMPLES_PER_BATCH)]
        self._read = [(one, store.pull(one.keys)) for one in planned]
        self._labels_B = [batch.labels_B for batch in valid.batches(_EXAMPLES_PER_BATCH)]

    def choose(self, widths: Candidate) -> None:
        """Take a width for each table, in their order."""
        for (name, table), width in zip(self._tables.items(), widths, strict=True):
            table.choose(self._kept[name], width)

    @torch.no_grad()
    def __call__(self, widths: Candidate) -> float:
        """The AUC at widths."""
        self.choose(widths)
        logits = [self._recommender(planned, rows)[0] for planned, rows in self._read]
        probabilities: list[Floats] = [torch.sigmoid(logits_B).numpy() for logits_B in logits]
        return float(summary(np.concatenate(self._labels_B), np.concatenate(probabilities))["auc"])

    def _prune_companions(self) -> None:
        """A linear part loses the ids that its embeddings lose."""
        of_feature = {table.config.feature_names[0]: name for name, table in self._tables.items()}
        for table in self._recommender.embeddings.tables.values():
            if isinstance(table, OptEmbed) and not table.prunes:
                table.choose(self._kept[of_feature[table.config.feature_names[0]]], 1)


def kept_map(kept: Mapping[str, Bools], widths: Mapping[str, int], data: str) -> KeptMap:
    """The map of what stays."""
    tables = {name: KeptIds.of(is_kept_N, widths[name]) for name, is_kept_N in kept.items()}
    return KeptMap(method="optembed", data=data, tables=tables)


def pruned_blueprint(blueprint: Blueprint, kept: KeptMap) -> Blueprint:
    """What is retrained and served in place of a supernet."""
    return with_table_of(blueprint, "pruned", map=kept.to_json())


def search_space(blueprint: Blueprint, recommender: Recommender, kept: KeptMap) -> Space:
    """Widths of every table, of which those are allowed that the blueprint's target size has room for.

    With a target, narrow widths are the likelier the smaller it is, such that a drawn candidate has about its size.
    ConfigError where not even rows of one number fit.
    """
    tables = pruning_tables(recommender)
    most = max(table.config.embedding_dim for table in tables.values())
    target = served_target(build(OptEmbedPlan, blueprint.table, "table"), recommender)
    if target is None:
        return Space(num_genes=len(tables), most=most)
    num_bytes, asked = target
    bytes_FW = np.array([_served_bytes(blueprint, kept, width) for width in range(1, most + 1)]).T
    if (least := int(bytes_FW[:, 0].sum())) > num_bytes:
        raise ConfigError(
            f"table.{asked} allows {int(num_bytes):,} bytes, and the rows that are kept, of one number each, take "
            f"{least:,}; give budget={least} or more, or prune more by a higher optimizer.rows.weight_decay"
        )

    def allows(widths: Candidate) -> bool:
        return bool(bytes_FW[np.arange(len(tables)), np.array(widths) - 1].sum() <= num_bytes)

    return Space(num_genes=len(tables), most=most, allows=allows, weights=_likely(bytes_FW.sum(axis=0), num_bytes))


def served_target(plan: TablePlan, recommender: Recommender) -> tuple[float, str] | None:
    """How many bytes may be served, and who says so; None for any."""
    if plan.budget is not None:
        return plan.budget, f"budget={plan.budget}"
    if plan.compression is None:
        return None
    full_bytes = sum(table.config.full_bytes or 0 for table in recommender.embeddings.tables.values())
    return full_bytes / plan.compression, f"compression={plan.compression:g}"


def _served_bytes(blueprint: Blueprint, kept: KeptMap, width: int) -> list[int]:
    """What each table takes at a width, its companion counted."""
    widened = kept.widened(dict.fromkeys(kept.tables, width))
    tables = Recommender(pruned_blueprint(blueprint, widened)).embeddings.tables
    sizes: dict[tuple[str, ...], int] = {}
    for table in tables.values():
        features = table.config.feature_names
        sizes[features] = sizes.get(features, 0) + table.nbytes("serving").total
    return list(sizes.values())


def _likely(bytes_W: Any, num_bytes: float) -> Any:
    """Probabilities of widths, falling by a factor each, such that what is expected is no more than is allowed."""

    def falling(factor: float) -> Any:
        weights_W = factor ** np.arange(len(bytes_W), dtype=float)
        return weights_W / weights_W.sum()

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) @ bytes_W <= num_bytes else (low, middle)
    return falling(1.0) if falling(1.0) @ bytes_W <= num_bytes else falling(low)
