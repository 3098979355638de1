"""Training in epochs, judged on a part of its own: one loop for joined and for plain examples.

After each validation the best so far is kept; where it did not improve, learning rates may fall, and after some in a
row training stops. Where a run stands (``Course``) goes with its checkpoints: interrupted after any step and resumed,
it ends with the very weights and figures of a run that was not.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, Protocol

from recsys.errors import ConfigError, DataError
from recsys.fields import Above, AtLeast, Below
from recsys.training.fit import Examples, evaluate
from recsys.training.trainer import Learner

Count = Annotated[int, AtLeast(1)]
_LEAST_GAIN = 1e-6  # a smaller one is none (FuxiCTR's)
RISES = {"auc": 1, "gauc": 1, "logloss": -1, "normalized_entropy": -1}


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """``fit``: how long training goes on, and what by."""

    monitor: Literal["auc", "gauc", "logloss", "normalized_entropy"] = "auc"
    validate_every_steps: Count | None = None
    patience: Count | None = None
    plateau_factor: Annotated[float, Above(0), Below(1)] | None = None
    clip_norm: Annotated[float, Above(0)] | None = None
    checkpoint_every_steps: Count | None = None


@dataclass(kw_only=True)
class Course:
    """Where training stands: JSON, as it goes with a checkpoint.

    ``start`` is the row of the epoch's order that comes next, ``history`` what each validation found, ``worse`` how
    many since the best.
    """

    epoch: int = 0
    start: int = 0
    num_steps: int = 0
    num_clipped: int = 0
    loss_sum: float = 0.0  # over the examples since the last validation
    loss_examples: int = 0
    best: float | None = None
    best_at: int | None = None  # its place in the history
    worse: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Watcher(Protocol):
    """Who is told how training goes, and keeps what is worth it."""

    def stepped(self, course: Course, steps: int, loss: float) -> None:
        """After a step, of ``steps`` that there may be."""

    def validated(self, course: Course, is_best: bool) -> None:
        """After a validation: the last of ``course.history``, and whether the weights are the best so far."""

    def checkpoint(self, course: Course) -> None:
        """At a point to go on from."""

    def stops(self) -> bool:
        """Whether someone asked to stop."""


def fit(
    trainer: Learner,
    train: Examples,
    valid: Examples,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    how: Fitting,
    watcher: Watcher,
    course: Course | None = None,
) -> Course:
    """Train until the epochs are over, patience is, or the watcher stops it: then ``course.finished`` is False."""
    course = course or Course()
    steps = epochs * -(-train.num_examples // batch_size)
    while not course.finished:
        batches = train.batches(batch_size, seed=[seed, course.epoch], start=course.start)
        for result in trainer.steps(batches):
            _count(course, trainer, len(result.probabilities_B), result.loss)
            watcher.stepped(course, steps, result.loss)
            if _is_due(how.validate_every_steps, course) and course.start < train.num_examples:
                _validate(course, trainer, valid, how, watcher)
            if course.finished or watcher.stops():
                break
            if _is_due(how.checkpoint_every_steps, course):
                watcher.checkpoint(course)
        if course.start >= train.num_examples:
            course.epoch, course.start = course.epoch + 1, 0
            course.finished = course.epoch >= epochs
            _validate(course, trainer, valid, how, watcher)
        watcher.checkpoint(course)
        if watcher.stops():
            break
    return course


def _count(course: Course, trainer: Learner, num_examples: int, loss: float) -> None:
    course.start += num_examples
    course.loss_sum += loss * num_examples
    course.loss_examples += num_examples
    course.num_steps, course.num_clipped = trainer.num_steps, trainer.num_clipped


def _is_due(every_steps: int | None, course: Course) -> bool:
    return every_steps is not None and course.num_steps % every_steps == 0


def _validate(course: Course, trainer: Learner, valid: Examples, how: Fitting, watcher: Watcher) -> None:
    """Judge, keep the best, and where it is not: lower the rates, or stop."""
    found = evaluate(trainer, valid)
    value = _monitored(found, how.monitor)
    about = {"epoch": course.epoch, "step": course.num_steps, "train_loss": course.loss_sum / course.loss_examples}
    course.history.append({**about, **found})
    course.loss_sum, course.loss_examples = 0.0, 0
    gain = math.inf if course.best is None else RISES[how.monitor] * (value - course.best)
    is_best = gain > _LEAST_GAIN
    if is_best:
        course.best, course.best_at, course.worse = value, len(course.history) - 1, 0
    else:
        course.worse += 1
        course.finished = course.finished or course.worse == how.patience
        if how.plateau_factor is not None and not course.finished:
            trainer.slow_down(how.plateau_factor)
    watcher.validated(course, is_best)


def _monitored(found: dict[str, float], monitor: str) -> float:
    if monitor not in found:
        raise ConfigError(f"fit.monitor={monitor}: the examples have no groups; set data.examples.group, or choose auc")
    if math.isnan(found[monitor]):
        raise DataError(
            f"fit.monitor={monitor} is undefined: the {found['num_examples']:,.0f} examples of the valid part are of "
            f"one class (mean label {found['label_mean']:g}); give more of them, or fit.monitor=logloss"
        )
    return found[monitor]
