"""Train a retrieval model and judge what it finds: ``python -m jobs.retrieve interactions=gowalla table=graphhash``."""

import json
from pathlib import Path
from typing import Any

from jobs.launch import job, shown


@job("retrieve")
def main(config: dict[str, Any], folder: Path) -> None:
    """Learn until validation gets no better, judge the best on the test part.

    Leaves summary.json in ``folder``, and a checkpoint of the best that jobs.publish puts into Redis.
    """
    from recsys.runtime.retrieving import RetrieveSettings, retrieve

    settings = RetrieveSettings.of(config)

    import time

    from rich.console import Console

    from recsys.datasets.interactions import titles_of
    from recsys.tables import with_map
    from recsys.training.checkpoint import save_checkpoint
    from recsys.training.retrieved import as_checkpoint, retrieved_form

    console = Console(highlight=False, soft_wrap=True)
    table, graphs = with_map(settings.table, settings.interactions.name), settings.graphs()
    found = retrieve(
        settings,
        table,
        graphs,
        seconds=time.perf_counter,
        on_judged=lambda epoch, said: console.print(
            f"{said['seconds']:7.1f} s  epoch {epoch}: loss {said['loss']:.4f}, valid recall@20 {said['recall']:.4f}"
        ),
    )
    retrieved = retrieved_form(
        table, settings.optimizer["rows"], graphs, found.fitted, smooths=found.retriever.whole, seed=settings.seed
    )
    save_checkpoint(folder / "checkpoints", as_checkpoint(retrieved, graphs, titles_of(settings.interactions)))
    (folder / "summary.json").write_text(json.dumps(found.summary, indent=2) + "\n")
    test, floor = found.summary["test"], found.summary["popularity"]
    console.print(
        f"test recall@20 {test['recall']:.4f} (popularity {floor['recall']:.4f})  ndcg@20 {test['ndcg']:.4f} "
        f"({floor['ndcg']:.4f}), ties by chance, best of epoch {found.fitted.epoch}; "
        f"in {shown(folder / 'summary.json')}"
    )


if __name__ == "__main__":
    main()
