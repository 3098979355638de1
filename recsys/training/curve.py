"""The curve of a run as a picture: what it lost on train and what valid said, validation by validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#d8dee4"}
_TRAIN, _VALID = "#0969da", "#d1580a"


def draw_curve(path: Path, history: Sequence[Mapping[str, float]], *, monitor: str, best_at: int | None) -> None:
    """Draw a course's history to a PNG: losses on the left, the monitored metric with its best on the right."""
    steps = [found["step"] for found in history]
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        losses, metric = figure.subplots(1, 2)
        losses.plot(steps, [found["train_loss"] for found in history], color=_TRAIN, marker=".", label="train")
        losses.plot(steps, [found["logloss"] for found in history], color=_VALID, marker=".", label="valid")
        losses.set(title="loss", xlabel="step")
        losses.legend(frameon=False)
        metric.plot(steps, [found[monitor] for found in history], color=_VALID, marker=".")
        if best_at is not None:
            metric.plot(steps[best_at], history[best_at][monitor], "o", color=_VALID, markersize=9, fillstyle="none")
        metric.set(title=f"valid {monitor}", xlabel="step")
        for axes in (losses, metric):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.savefig(path, dpi=120)
