"""Train a retrieval model and judge what it finds: ``python -m jobs.retrieve interactions=gowalla table=graphhash``."""

import json
from pathlib import Path
from typing import Any

from jobs.launch import job, shown


@job("retrieve")
def main(config: dict[str, Any], folder: Path) -> None:
    """Learn until validation gets no better, judge the best on the test part; leave summary.json in ``folder``."""
    from recsys.runtime.retrieving import RetrieveSettings, retrieve

    settings = RetrieveSettings.of(config)

    import time

    from rich.console import Console

    from recsys.tables import with_map

    console = Console(highlight=False, soft_wrap=True)
    found = retrieve(
        settings,
        with_map(settings.table, settings.interactions.name),
        settings.graphs(),
        seconds=time.perf_counter,
        on_judged=lambda epoch, said: console.print(
            f"{said['seconds']:7.1f} s  epoch {epoch}: loss {said['loss']:.4f}, valid recall@20 {said['recall']:.4f}"
        ),
    )
    (folder / "summary.json").write_text(json.dumps(found.summary, indent=2) + "\n")
    test, floor = found.summary["test"], found.summary["popularity"]
    console.print(
        f"test recall@20 {test['recall']:.4f} (popularity {floor['recall']:.4f})  ndcg@20 {test['ndcg']:.4f} "
        f"({floor['ndcg']:.4f}), ties by chance, best of epoch {found.fitted.epoch}; "
        f"in {shown(folder / 'summary.json')}"
    )


if __name__ == "__main__":
    main()
