"""What a run in epochs leaves in its folder, as it goes.

::

    checkpoints/     where it stands, after each epoch: to go on from; at the end the best weights, to publish
    best/            the best weights so far
    tensorboard/     loss by step, metrics by validation
    metrics.json     each validation
    curve.png        the same as a picture, at the end

What a run that was killed left is enough to go on from; the picture is drawn when it ends.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataError
from recsys.models.recommender import Blueprint
from recsys.training.checkpoint import Checkpoint, State, load_checkpoint, save_checkpoint
from recsys.training.curve import draw_curve
from recsys.training.epochs import Course
from recsys.training.mlflow_run import MlflowRun
from recsys.training.tensorboard import EventFile
from recsys.training.trainer import Learner

_STEPS_A_SCALAR = 20


class Keeper:
    """The Watcher of ``epochs.fit`` that writes to a folder. ``about`` and ``features`` are those of a checkpoint.

    ``on_step`` is told (step, steps), ``say`` a line for each validation; ``figures`` are more of each validation.
    ``on_validated`` is called after it, when all of it is kept.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Learner,
        *,
        monitor: str,
        about: Mapping[str, Any],
        features: Mapping[str, Any],
        on_step: Callable[[int, int], None],
        say: Callable[[str], None],
        figures: Callable[[], Mapping[str, float]] = dict,
        on_validated: Callable[[Course], None] = lambda course: None,
        mlflow: MlflowRun | None = None,
    ) -> None:
        self._folder, self._trainer, self._monitor = folder, trainer, monitor
        self._about, self._features = about, features
        self._on_step, self._say, self._figures = on_step, say, figures
        self._on_validated = on_validated
        self._is_judged = False  # since the last checkpoint
        self._events, self._mlflow = EventFile(folder / "tensorboard"), mlflow
        self._stops = False
        self._course = Course()  # as it was last heard of

    def stop(self) -> None:
        """Ask training to stop after the step that is under way."""
        self._stops = True

    # --- as Watcher

    def stops(self) -> bool:
        """See Watcher."""
        return self._stops

    def stepped(self, course: Course, steps: int, loss: float) -> None:
        """See Watcher."""
        self._on_step(course.num_steps, steps)
        if course.num_steps % _STEPS_A_SCALAR == 0:
            self._tell(course.num_steps, {"train/loss": loss})

    def validated(self, course: Course, is_best: bool) -> None:
        """See Watcher."""
        more, self._is_judged = self._figures(), True
        self._course, found = course, course.history[-1]
        found.update(more)
        self._tell(course.num_steps, {f"valid/{name}": found[name] for name in found if name not in ("epoch", "step")})
        if is_best:
            self._save(self._folder / "best", course, keep=1)
        write_json(self._folder / "metrics.json", course.history)
        where = f"epoch {found['epoch']:g}" if course.start == 0 else f"step {found['step']:g}"
        figures = f"valid AUC {found['auc']:.4f}  logloss {found['logloss']:.4f}"
        figures += "".join(f"  {name} {value:.4f}" for name, value in more.items())
        self._say(f"{where}: {figures}{'  best so far' if is_best and len(course.history) > 1 else ''}")

    def checkpoint(self, course: Course) -> None:
        """See Watcher."""
        self._save(self._folder / "checkpoints", course, keep=2)
        if self._is_judged:
            self._is_judged = False
            self._on_validated(course)

    # --- at the end

    def restore_best(self) -> None:
        """Put the best weights back into the trainer's store."""
        self._trainer.store.restore(load_checkpoint(self._folder / "best").rows)

    def tested(self, course: Course, found: Mapping[str, float]) -> None:
        """What the best was worth on test."""
        self._tell(course.num_steps, {f"test/{name}": value for name, value in found.items()})

    def close(self) -> None:
        """Finish the event file, and draw the curve."""
        self._events.close()
        if self._mlflow is not None:
            self._mlflow.close(finished=self._course.finished)
        if self._course.history:
            path = self._folder / "curve.png"
            draw_curve(path, self._course.history, monitor=self._monitor, best_at=self._course.best_at)

    def _tell(self, step: int, values: Mapping[str, float]) -> None:
        self._events.add(step, values)
        if self._mlflow is not None:
            self._mlflow.add(step, values)

    def _save(self, where: Path, course: Course, keep: int) -> None:
        checkpoint = Checkpoint(
            blueprint=self._trainer.recommender.blueprint,
            joiners=[{"features": self._features, "position": []}],
            about={**self._about, "course": course.to_json()},
            rows=self._trainer.store.snapshot(),
        )
        save_checkpoint(where, checkpoint, keep=keep)


def open_resumed(folder: Path, blueprint: Blueprint, about: Mapping[str, Any]) -> tuple[Checkpoint, Course]:
    """Where a run that was interrupted stands, with its rows.

    DataError where there is nothing to go on from; ConfigError where the run was told something else than this one is:
    what is trained by the new words would be neither of the two.
    """
    check_unfinished(folder)
    checkpoint = load_checkpoint(folder / "checkpoints")
    if "course" not in checkpoint.about:
        raise DataError(f"resume={folder}: its checkpoint is none of a run in epochs; jobs.online resumes its own")
    check_told(folder, checkpoint, blueprint, about)
    return checkpoint, Course(**checkpoint.about["course"])


def check_unfinished(folder: Path) -> None:
    """DataError where a run has ended."""
    if (folder / "summary.json").exists():
        raise DataError(f"resume={folder}: that run has ended, its figures are in summary.json; begin a new one")


def check_told(folder: Path, before: State, blueprint: Blueprint, about: Mapping[str, Any]) -> None:
    """ConfigError, by the first option that differs, where a run was told something else than this one is."""
    if different := first_difference(_told(before.blueprint, before.about), _told(blueprint, about)):
        name, was, now = different
        raise ConfigError(f"resume={folder}: {name} was {was!r}, and is {now!r} now; give the options that it had")


def first_difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The name of the first value that differs, and both; names of values within others have dots.

    >>> first_difference({"table": {"kind": "full", "budget": 1}}, {"table": {"kind": "full", "budget": 2}})
    ('table.budget', 1, 2)
    """
    if before == now:
        return None
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return name, before, now
    parts = (
        first_difference(before.get(part), now.get(part), f"{name}.{part}" if name else part)
        for part in dict.fromkeys([*now, *before])
    )
    return next((found for found in parts if found is not None), None)


def _told(blueprint: Blueprint, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was told, as JSON has it; schedules grow on the way."""
    said: dict[str, Any] = json.loads(json.dumps({**blueprint.to_json(), **about}))
    for optimizer in ("optimizer", "first_order_optimizer", "dense_optimizer"):
        said[optimizer] = {name: value for name, value in (said[optimizer] or {}).items() if name != "schedule"}
    return {name: value for name, value in said.items() if name != "course"}


def write_json(path: Path, figures: Any) -> None:
    """Figures as JSON; what is not a number there is null."""
    path.write_text(json.dumps(_known(figures), indent=2) + "\n", encoding="utf-8")


def _known(figures: Any) -> Any:
    if isinstance(figures, Mapping):
        return {name: _known(value) for name, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [_known(value) for value in figures]
    return None if isinstance(figures, float) and math.isnan(figures) else figures
