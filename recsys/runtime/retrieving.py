"""Retrieval as ``jobs.retrieve`` is told to: learned until validation gets no better, the best judged on test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from recsys.datasets.interaction_files import InteractionFiles, data_folder
from recsys.datasets.interactions import read_interactions
from recsys.fields import AtLeast, build
from recsys.models.retrieval import build_retriever, build_retriever_config
from recsys.models.retriever import Retriever
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import build_optimizer
from recsys.tables import check_fields
from recsys.tables.embeddings import Embeddings
from recsys.training.fitting import RetrievalFit
from recsys.training.ranking import judge, popularity
from recsys.training.retrieval import Fitted, Graphs, figures, fit_retriever, judge_test, local_trainer


@dataclass(frozen=True, kw_only=True)
class RetrieveSettings:
    """What is learned from, by which model over which table.

    ``optimizer.rows`` is that of the rows, ``optimizer.dense`` that of parameters which a table brings.
    """

    interactions: InteractionFiles
    table: Mapping[str, Any]
    retriever: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    seed: Annotated[int, AtLeast(0)]
    fit: RetrievalFit

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "RetrieveSettings":
        """The settings, the fields of every part checked."""
        settings = build(cls, config, "")
        check_fields(settings.table)
        build_retriever_config(settings.retriever)
        for name, fields in settings.optimizer.items():
            build_optimizer(fields, f"optimizer.{name}")
        return settings

    def graphs(self) -> Graphs:
        """The three parts of the interactions."""
        return Graphs.of(read_interactions(self.interactions, data_folder(), self.seed))


@dataclass(frozen=True)
class Retrieved:
    """A model that was trained: where it was best, its rows as they are at the end, what the best finds."""

    retriever: Retriever
    fitted: Fitted
    embeddings: Embeddings
    store: LocalRows
    summary: dict[str, Any]


def retrieve(
    settings: RetrieveSettings,
    table: Mapping[str, Any],
    graphs: Graphs,
    *,
    seconds: Callable[[], float],
    on_judged: Callable[[int, dict[str, float]], None],
) -> Retrieved:
    """Train over ``table``, which has its map read into it; callback: (epoch, figures) of each look at validation."""
    retriever = build_retriever(settings.retriever, graphs.train)
    optimizer = build_optimizer(settings.optimizer["rows"])
    dense_optimizer = build_optimizer(settings.optimizer.get("dense", settings.optimizer["rows"]))
    trainer, embeddings, store = local_trainer(
        table, retriever, graphs.train, optimizer, settings.seed, dense_optimizer
    )
    fitted = fit_retriever(trainer, graphs, settings.fit, seed=settings.seed, seconds=seconds, on_judged=on_judged)
    floor = judge(*popularity(graphs.train), graphs.test, [graphs.train, graphs.valid], seed=settings.seed)
    summary = {
        "test": figures(judge_test(fitted, graphs, settings.seed)),
        "popularity": figures(floor),
        "epoch": fitted.epoch,
        "rows": sum(group.num_rows or 0 for group in embeddings.groups.values()),
        "map_bytes": sum(table.map_bytes("serving") for table in embeddings.tables.values()),
        "train_bytes": store.nbytes,
        "history": fitted.history,
    }
    return Retrieved(retriever, fitted, embeddings, store, summary)
