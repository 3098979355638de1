"""What a finished run is judged by: counts from the events file, AUC against a baseline, speed, parity."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.datasets.audit import audit
from recsys.features.state import FeatureState
from recsys.hashing import Floats
from recsys.models.recommender import Recommender
from recsys.runtime.lag import total_lag
from recsys.runtime.online import Trained
from recsys.runtime.watching import Progress
from recsys.serving import Lookup, Ranker
from recsys.serving.ranker import Scorer, StateFeatures
from recsys.training.baseline import RunningMeans
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.predictions import read_predictions
from recsys.training.report import Plot, write_report
from recsys.training.slices import Slice, by_slice

_NUM_CANDIDATES = 100
_PARITY_BOUNDS = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2}  # by the format of published rows
_SLICE_METRICS = {
    "auc": "AUC",
    "logloss": "Logloss",
    "normalized_entropy": "Normalised entropy",
    "calibration": "Calibration",
}
_SLICE_FIGURES = ("num_examples", *_SLICE_METRICS)
_PACKAGES = ("torch", "ray", "kafka-python", "redis", "pyarrow", "numpy", "numba", "hydra-core")


def summarize(trained: Trained) -> dict[str, Any]:
    """The figures of ``summary.json``."""
    predictions = read_predictions(trained.predictions)
    learned, baseline = progressive(predictions)
    last_half = learned.over_last(0.5)
    last = trained.history[-1]
    users = _some_users(trained.features, 20)
    return {
        "source": trained.source,
        "data": trained.settings.data_name,
        "row_format": trained.settings.layout.row_format,
        "finished": trained.finished,
        "events": last.events,
        "examples": predictions.num_rows,
        "examples_sampled_out": trained.join_counts["examples_sampled_out"],
        **_audited(trained, predictions),
        "dead_letters": trained.join_counts["dead_letters"],
        "late_events": trained.join_counts["late_events"],
        "unknown_ids": trained.unknown_ids,
        "recoveries": [asdict(recovery) for recovery in trained.recoveries],
        "lost_steps": trained.lost_steps,
        "lag_events_max": max(total_lag(look.lag).events for look in trained.history),
        "lag_seconds_max": max(total_lag(look.lag).seconds for look in trained.history),
        "events_per_s": last.events / trained.seconds,
        "auc_last_half": last_half["auc"],
        "auc_baseline_last_half": baseline.over_last(0.5)["auc"],
        "logloss_last_half": last_half["logloss"],
        "calibration": last_half["calibration"],
        "slices": {name: _figures(part) for name, part in by_slice(predictions).items()},
        "rows": last.rows,
        "bytes": last.bytes,
        **_percentiles("sync_delay_ms", trained.delays_ms),
        "lookup_rows_per_s": lookup_rows_per_second(trained.redis_url, trained.settings.layout.model),
        **_percentiles("rank_ms", rank_ms(trained, users)),
        "parity_max_abs_error": parity_error(trained, users),
        "seconds": trained.seconds,
        **({"unsaved": trained.unsaved} if trained.unsaved else {}),
        "versions": versions(),
    }


def progressive(predictions: pa.Table) -> tuple[ProgressiveMetrics, ProgressiveMetrics]:
    """Predictions as made on the way, and those of the running means on the same stream."""
    columns = {name: predictions.column(name).to_numpy() for name in ("time_ms", "label", "probability", "keep_rate")}
    known = {"time_ms": columns["time_ms"], "labels": columns["label"], "weights": 1 / columns["keep_rate"]}
    learned, baseline = ProgressiveMetrics(), ProgressiveMetrics()
    learned.add(**known, probabilities=columns["probability"])
    scores = RunningMeans().score_and_learn(
        predictions.column("user_id").to_pylist(), predictions.column("item_id").to_pylist(), columns["label"]
    )
    # user mean + item mean is a score, not a probability: halved, it keeps its order and fits in 0..1
    baseline.add(**known, probabilities=np.clip(scores / 2, 0, 1))
    return learned, baseline


def parity_error(trained: Trained, users: Sequence[tuple[int, int | str]]) -> float:
    """Largest difference between scores from Redis and those from the trainer's own rows and features."""
    run, versions_now = Ranker.connect(trained.redis_url, trained.settings.layout.model).published.current()
    from_redis = Scorer(run.recommender, run.rows, run)
    from_redis.load_dense()
    recommender = Recommender(trained.settings.blueprint)
    item_ids = run.item_ids()
    generator = np.random.default_rng(0)
    worst = 0.0
    for joiner, user in users:
        own = Scorer(recommender, trained.store, StateFeatures(trained.features[joiner]))
        own.load_dense()
        picked = [item_ids[at] for at in generator.integers(0, max(len(item_ids), 1), min(100, len(item_ids)))]
        if picked:
            difference = from_redis.scores(user, picked, versions_now.time_ms) - own.scores(
                user, picked, versions_now.time_ms
            )
            worst = max(worst, float(np.abs(difference).max()))
    return worst


def lookup_rows_per_second(redis_url: str, model: str, seconds: float = 1.0) -> float:
    """Embeddings a second through ``Lookup``, a thousand ids a call."""
    lookup = Lookup.connect(redis_url, model)
    run, _ = lookup.published.current()
    feature = next((f.name for f in run.recommender.features if f.source == "item.id"), None)
    known = [] if feature is None else run.recommender.known_ids(feature, run.item_ids())
    if feature is None or not known:
        return float("nan")
    ids = np.random.default_rng(0).choice(np.array(known, object), 1000).tolist()
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        lookup.embeddings(feature, ids)
        calls += 1
    return 1000 * calls / (time.perf_counter() - started)


def rank_ms(trained: Trained, users: Sequence[tuple[int, int | str]], calls: int = 200) -> Floats:
    """Milliseconds of ``Ranker.rank`` over 100 candidates, one number a call."""
    ranker = Ranker.connect(trained.redis_url, trained.settings.layout.model)
    item_ids = ranker.published.current()[0].item_ids()
    if not item_ids or not users:
        return np.empty(0, np.float32)
    generator = np.random.default_rng(0)
    taken = []
    for call in range(calls):
        candidates = [item_ids[at] for at in generator.integers(0, len(item_ids), _NUM_CANDIDATES)]
        started = time.perf_counter()
        ranker.rank(users[call % len(users)][1], candidates)
        taken.append(1000 * (time.perf_counter() - started))
    return np.array(taken[1:], np.float32)  # the first call reads the model


def versions() -> dict[str, str]:
    """What the figures were made with."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """``summary.json``; a figure that could not be measured is null."""
    path.write_text(json.dumps(_known(summary), indent=2) + "\n")


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_known(part) for part in value]
    return None if value != value else value


def shortfalls(summary: dict[str, Any]) -> list[str]:
    """What a run promises and this one did not keep, one line each."""
    lines = []
    if summary["parity_max_abs_error"] > _PARITY_BOUNDS[summary["row_format"]]:
        lines.append(f"scores from Redis are up to {summary['parity_max_abs_error']:.2g} off the trainer's own")
    taken_along = any(
        r["mode"] == "available" and r["what"].startswith("worker") for r in summary.get("recoveries", ())
    )
    if summary.get("unsaved"):
        lines.append(
            f"what was learned is published, but its last checkpoint could not be written: {summary['unsaved']}"
        )
    for name in ("examples_lost", "examples_duplicated"):
        if summary[name] and name == "examples_lost" and taken_along:
            lines.append(f"{summary[name]} examples have no prediction on record: a killed worker took some along")
        elif summary[name]:
            lines.append(f"{name} is {summary[name]}, counted by request id; it should be 0")
    return lines


def write_run_report(path: Path, trained: Trained, summary: dict[str, Any]) -> None:
    """``report.html``: the figures, and plots of how they came about."""
    predictions = read_predictions(trained.predictions)
    learned, baseline = progressive(predictions)
    num_windows = int(np.clip(learned.num_examples // 1000, 1, 50))
    model_curve, baseline_curve = learned.windows(num_windows), baseline.windows(num_windows)
    shown = {key: value for key, value in summary.items() if key not in ("versions", "slices")}
    shown |= {name: {key: figures[key] for key in _SLICE_FIGURES} for name, figures in summary["slices"].items()}
    write_report(
        path,
        title=f"Online training on {trained.settings.data_name}",
        summary=shown,
        plots=[
            Plot(
                "AUC over the stream",
                "examples",
                "AUC of the window, predicted before learned",
                {
                    "model": (model_curve.num_examples, model_curve.auc),
                    "running user mean + item mean": (baseline_curve.num_examples, baseline_curve.auc),
                },
            ),
            *_slice_plots(by_slice(predictions)),
            _over_time("Rows", "rows", trained.history, lambda look: look.rows),
            _over_time(
                "Lag", "events and examples not learned yet", trained.history, lambda look: total_lag(look.lag).events
            ),
            _over_time(
                "Lag in seconds",
                "s that the first of them waits, in the partition furthest behind",
                trained.history,
                lambda look: total_lag(look.lag).seconds,
            ),
            _delays(trained),
        ],
    )


def _figures(part: Slice) -> dict[str, Any]:
    """What a slice is judged by over the whole stream, and in its course."""
    return {**part.metrics.over_last(1.0), "course": asdict(part.course())}


def _slice_plots(slices: Mapping[str, Slice]) -> list[Plot]:
    """One plot a metric, one line a slice: its windows where they end in the stream."""
    courses = {name.replace("_", " "): part.course() for name, part in slices.items()}
    return [
        Plot(
            f"{label} by slice",
            "examples",
            f"{label} of the slice's window, predicted before learned",
            {name: (course.num_examples, getattr(course, metric)) for name, course in courses.items()},
        )
        for metric, label in _SLICE_METRICS.items()
    ]


def _over_time(title: str, label: str, history: Sequence[Progress], value: Callable[[Progress], float]) -> Plot:
    seconds = [look.seconds for look in history]
    return Plot(title, "seconds", label, {title.lower(): (seconds, [value(look) for look in history])})


def _delays(trained: Trained) -> Plot:
    delays = np.sort(trained.delays_ms)
    shares = np.linspace(0, 100, 101)
    values = np.percentile(delays, shares) if len(delays) else np.zeros_like(shares)
    return Plot(
        "Sync delay",
        "percent of examples",
        "ms from event read to readable in Redis",
        {"delay": (shares.tolist(), values.tolist())},
        note=f"Rows are published every {trained.settings.sync_seconds:g} s.",
    )


def _audited(trained: Trained, predictions: pa.Table) -> dict[str, Any]:
    """Examples lost and duplicated, counted by request id from the events file; what sampling left out is not lost.

    Of somebody else's stream, one that repeats, or one stopped before the end, what was not read is unknown: duplicates
    alone are counted.
    """
    request_ids = predictions.column("request_id")
    if trained.prepared is None or trained.settings.replay.repeat:
        return {"examples_lost": None, "examples_duplicated": len(request_ids) - len(request_ids.unique())}
    counted = audit(trained.prepared, request_ids, trained.settings.replay.limit)
    lost = counted.lost - trained.join_counts["examples_sampled_out"]
    return {"examples_lost": lost if trained.finished else None, "examples_duplicated": counted.duplicated}


def _some_users(states: Sequence[FeatureState], num: int) -> list[tuple[int, int | str]]:
    """Users with a history, each with the number of the joiner that keeps it."""
    users = [(joiner, user) for joiner, state in enumerate(states) for user in state.users()]
    return users[-num:]


def _percentiles(name: str, values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {f"{name}_p50": float("nan"), f"{name}_p99": float("nan")}
    return {f"{name}_p50": float(np.percentile(values, 50)), f"{name}_p99": float(np.percentile(values, 99))}
