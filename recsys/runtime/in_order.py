"""Learning in one pass as it was recorded, an archive in its very batches: each batch predicted, then learned."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from recsys.models.recommender import Blueprint, Recommender
from recsys.runtime.parts import about_of
from recsys.runtime.sections import TrainConfig
from recsys.runtime.training import keep_seen, progress, rows_of, say_where, sizes_of
from recsys.training.checkpoint import Checkpoint, save_checkpoint
from recsys.training.fit import Joined, batches_of, learn_in_order, recorded_batches
from recsys.training.keeping import write_json
from recsys.training.trainer import Trainer


def run_in_order(settings: TrainConfig, blueprint: Blueprint, recorded: Joined, folder: Path, console: Console) -> None:
    """Everything as it came, an archive in its very batches."""
    recommender = Recommender(blueprint)
    with rows_of(settings, recommender.groups, console) as store:
        trainer = Trainer(recommender, store, clip_norm=settings.fit.clip_norm)
        trainer.start()
        figures = _learn_in_order(settings, trainer, recorded.examples, console)
        state = {"features": recorded.features.to_json(), "position": []}
        about = {**about_of(settings), "time_ms": recorded.time_ms}
        rows = store.snapshot()
        checkpoint = Checkpoint(blueprint=blueprint, joiners=[state], about=about, rows=rows)
        save_checkpoint(folder / "checkpoints", checkpoint)
        summary = {
            **figures,
            "examples": recorded.examples.num_rows,
            **sizes_of(recommender, store),
        }
    keep_seen(recorded.examples, folder)
    write_json(folder / "summary.json", summary)
    say_where(summary, folder, console)


def _learn_in_order(settings: TrainConfig, trainer: Trainer, examples: pa.Table, console: Console) -> dict[str, Any]:
    """The figures of each epoch, predicted before learned."""
    history = []
    with progress(console) as on_step:
        for epoch in range(settings.epochs):
            if settings.source.kind == "archive":
                batches = recorded_batches(examples, trainer.recommender.features)
            else:
                batches = batches_of(examples, trainer.recommender.features, settings.batch.max_examples)
            predicted = learn_in_order(trainer, batches, lambda step: on_step(step, None))
            history.append({"all": predicted.over_last(1.0), "last_half": predicted.over_last(0.5)})
            auc = history[-1]["last_half"]["auc"]
            console.print(f"epoch {epoch + 1}: AUC of its last half, predicted before learned, {auc:.4f}")
    return {"progressive": history}
