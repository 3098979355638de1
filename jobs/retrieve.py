"""Train a retrieval model and judge what it finds: ``python -m jobs.retrieve interactions=gowalla table=graphhash``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import job, shown
from recsys.datasets.interaction_files import InteractionFiles, data_folder
from recsys.fields import AtLeast, build
from recsys.training.fitting import RetrievalFit


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
        from recsys.models.retrieval import build_retriever_config
        from recsys.rows.optimizers import build_optimizer
        from recsys.tables import check_fields

        settings = build(cls, config, "")
        check_fields(settings.table)
        build_retriever_config(settings.retriever)
        for name, fields in settings.optimizer.items():
            build_optimizer(fields, f"optimizer.{name}")
        return settings


@job("retrieve")
def main(config: dict[str, Any], folder: Path) -> None:
    """Learn until validation gets no better, judge the best on the test part.

    Leaves summary.json in ``folder``, and a checkpoint of the best that jobs.publish puts into Redis.
    """
    settings = RetrieveSettings.of(config)

    import time

    from rich.console import Console

    from recsys.datasets.interactions import read_interactions, titles_of
    from recsys.models.retrieval import build_retriever
    from recsys.rows.optimizers import build_optimizer
    from recsys.tables import with_map
    from recsys.training.checkpoint import save_checkpoint
    from recsys.training.ranking import judge, popularity
    from recsys.training.retrieval import Graphs, figures, fit_retriever, judge_test, local_trainer
    from recsys.training.retrieved import as_checkpoint, retrieved_form

    console = Console(highlight=False, soft_wrap=True)
    table = with_map(settings.table, settings.interactions.name)
    graphs = Graphs.of(read_interactions(settings.interactions, data_folder(), settings.seed))
    retriever = build_retriever(settings.retriever, graphs.train)
    optimizer = build_optimizer(settings.optimizer["rows"])
    dense_optimizer = build_optimizer(settings.optimizer.get("dense", settings.optimizer["rows"]))
    trainer, embeddings, store = local_trainer(
        table, retriever, graphs.train, optimizer, settings.seed, dense_optimizer
    )
    fitted = fit_retriever(
        trainer,
        graphs,
        settings.fit,
        seed=settings.seed,
        seconds=time.perf_counter,
        on_judged=lambda epoch, said: console.print(
            f"{said['seconds']:7.1f} s  epoch {epoch}: loss {said['loss']:.4f}, valid recall@20 {said['recall']:.4f}"
        ),
    )
    retrieved = retrieved_form(
        table, settings.optimizer["rows"], graphs, fitted, smooths=retriever.whole, seed=settings.seed
    )
    save_checkpoint(folder / "checkpoints", as_checkpoint(retrieved, graphs, titles_of(settings.interactions)))
    found = judge_test(fitted, graphs, settings.seed)
    floor = judge(*popularity(graphs.train), graphs.test, [graphs.train, graphs.valid], seed=settings.seed)
    summary = {
        "test": figures(found),
        "popularity": figures(floor),
        "epoch": fitted.epoch,
        "rows": sum(group.num_rows or 0 for group in embeddings.groups.values()),
        "map_bytes": sum(table.map_bytes("serving") for table in embeddings.tables.values()),
        "train_bytes": store.nbytes,
        "history": fitted.history,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(
        f"test recall@20 {found.recall:.4f} (popularity {floor.recall:.4f})  ndcg@20 {found.ndcg:.4f} "
        f"({floor.ndcg:.4f}), ties by chance, best of epoch {fitted.epoch}; in {shown(folder / 'summary.json')}"
    )


if __name__ == "__main__":
    main()
