"""Learn what users play next, session by session: ``python -m jobs.session session_model=pisa plays=planted``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jobs.launch import job, shown
from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Between, build

if TYPE_CHECKING:
    from rich.console import Console

    from recsys.models.sessions.questions import SessionRecommender
    from recsys.sessions.log import SessionLog
    from recsys.training.session_metrics import Judged

Count = Annotated[int, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class BatchSection:
    """``batch``: every batch of an epoch has about as many."""

    max_examples: Count


@dataclass(frozen=True, kw_only=True)
class JudgeSection:
    """``judge``: the length of a list, and how many cohorts of users tell the spread."""

    k: Count
    cohorts: Count


@dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """``optimizer``: of item vectors and of dense parameters; ``first_order`` is for models of another kind."""

    rows: Mapping[str, Any]
    first_order: Mapping[str, Any]
    dense: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """The YAML of jobs.session; plays, table, model and optimizers check their own fields here."""

    plays: Mapping[str, Any]
    table: Mapping[str, Any]
    session_model: Mapping[str, Any]
    optimizer: OptimizerFields
    seed: Annotated[int, Between(0, 2**63 - 1)]
    epochs: Count
    patience: Count
    min_age_seconds: Annotated[float, Above(0)]
    batch: BatchSection
    judge: JudgeSection
    beside: tuple[str, ...]
    resume: Path | None

    def __post_init__(self) -> None:
        from recsys.models.sessions import SIMPLE, build_session_config
        from recsys.rows.optimizers import build_optimizer
        from recsys.sessions.logs import build_plays
        from recsys.tables import check_fields

        build_plays(self.plays)
        build_session_config(self.session_model)
        for name in ("rows", "first_order", "dense"):
            build_optimizer(getattr(self.optimizer, name), f"optimizer.{name}")
        check_fields(self.table)
        if absent := [kind for kind in self.beside if kind not in SIMPLE]:
            raise ConfigError(f"beside={absent[0]!r}: choose of {', '.join(SIMPLE)}")


@job("session")
def main(config: dict[str, Any], folder: Path) -> None:
    """Cut plays into sessions, learn, judge on each user's last ones; leave summary.json and a report in ``folder``."""
    settings = build(SessionSettings, config, "")

    from rich.console import Console

    from recsys.sessions.log import TEST
    from recsys.sessions.logs import build_plays, read_log
    from recsys.training.session_metrics import judge

    console, plays = Console(), build_plays(settings.plays)
    with console.status("cutting plays into sessions"):
        log, survivors = read_log(plays)
    _tell(console, log, survivors)
    recommender, trained = _recommender(settings, log, folder, console)
    judged = {settings.session_model["kind"]: judge(recommender, log, TEST, k=settings.judge.k)}
    for kind in settings.beside:
        judged.setdefault(kind, judge(_simple(settings, kind, log), log, TEST, k=settings.judge.k))
    note = getattr(plays, "note", "")
    summary = {
        "plays": note or "planted",
        "survivors": survivors,
        "sessions": len(log.times_S),
        "users": log.num_users,
        "tracks": log.num_tracks,
        **trained,
        "test": _summaries(judged, settings, log),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _print(console, summary["test"], settings, note)
    _report(folder / "report.html", summary, trained)
    told = f"summary in {shown(folder / 'summary.json')}, report in {shown(folder / 'report.html')}"
    console.print(told, soft_wrap=True)


def _tell(console: "Console", log: "SessionLog", survivors: Mapping[str, Mapping[str, int]]) -> None:
    """What each step left of the log."""
    for step, counts in survivors.items():
        console.print(f"{step}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}")
    console.print(f"{len(log.times_S):,} sessions of {log.num_users:,} users over {log.num_tracks:,} tracks")


def _recommender(
    settings: SessionSettings, log: "SessionLog", folder: Path, console: "Console"
) -> tuple["SessionRecommender", dict[str, Any]]:
    """The recommender that was asked for, trained where it learns, and what there is to say of that."""
    from recsys.models.sessions import SIMPLE, build_session_config

    kind = settings.session_model["kind"]
    if kind in SIMPLE:
        if settings.resume is not None:
            raise ConfigError(f"resume={settings.resume}: session_model={kind} learns at once; leave resume out")
        simple = SIMPLE[kind](build_session_config(settings.session_model), log)
        return simple, {"decay": simple.decay} if kind == "actr" else {}
    return _learned(settings, log, folder, console)


def _learned(
    settings: SessionSettings, log: "SessionLog", folder: Path, console: "Console"
) -> tuple["SessionRecommender", dict[str, Any]]:
    """A model that learns by gradients, at its best epoch; every epoch leaves a checkpoint to go on from."""
    from recsys.models.sessions.recommender import SessionBlueprint
    from recsys.rows.first_use import compile_kernels
    from recsys.rows.local import LocalRows
    from recsys.training.keeping import check_unfinished
    from recsys.training.session_checkpoint import SessionKeeper, open_resumed
    from recsys.training.session_trainer import TrainedSessions, fit_sessions

    blueprint = SessionBlueprint(
        table=settings.table,
        model=settings.session_model,
        optimizer=settings.optimizer.rows,
        dense_optimizer=settings.optimizer.dense,
        seed=settings.seed,
    )
    about = _told(settings)
    begun = None
    if settings.resume is not None:
        check_unfinished(settings.resume)
        begun = open_resumed(settings.resume, log, blueprint, about)
    trained = TrainedSessions(blueprint, log)
    compile_kernels(trained.groups, console.print)
    store = LocalRows(trained.groups)
    trained.start(store, None if begun is None else begun.rows)
    history = fit_sessions(
        trained,
        log,
        epochs=settings.epochs,
        batch_size=settings.batch.max_examples,
        patience=settings.patience,
        seed=settings.seed,
        on_epoch=lambda epoch, loss, ndcg: console.print(f"epoch {epoch + 1}: loss {loss:.4f}  valid NDCG {ndcg:.4f}"),
        keeper=SessionKeeper(folder, trained, log, about),
        course=None if begun is None else begun.course,
    )
    return trained, {"valid": history, "rows": store.num_rows(), "bytes": store.nbytes}


def _told(settings: SessionSettings) -> dict[str, Any]:
    """What a run was told beside its blueprint, as JSON: ``resume=`` has to be told the same, but for how long."""
    plays = json.loads(json.dumps(settings.plays, default=str))
    return {"plays": plays, "batch": settings.batch.max_examples, "patience": settings.patience}


def _simple(settings: SessionSettings, kind: str, log: "SessionLog") -> "SessionRecommender":
    """A recommender with its defaults, but for the least age of a play."""
    from recsys.models.sessions import SIMPLE, build_session_config

    memory = {"memory": {"min_age_seconds": settings.min_age_seconds}} if kind == "actr" else {}
    recommender: SessionRecommender = SIMPLE[kind](build_session_config({"kind": kind, **memory}), log)
    return recommender


def _summaries(judged: "Mapping[str, Judged]", settings: SessionSettings, log: "SessionLog") -> dict[str, Any]:
    cohorts = min(settings.judge.cohorts, log.num_users)
    return {kind: found.summary(cohorts, settings.seed) for kind, found in judged.items()}


def _print(console: "Console", test: Mapping[str, Any], settings: SessionSettings, note: str) -> None:
    """Percent; beside NDCG its spread over cohorts."""
    from rich.table import Table

    if not console.is_terminal:
        console.width = 120
    table = Table(title=f"Test sessions, {note}" if note else "Test sessions", title_justify="left")
    names = ("recommender", f"NDCG@{settings.judge.k}", "spread", f"recall@{settings.judge.k}", "repeat", "explore")
    for column in (*names, "repeat bias", "popularity"):
        table.add_column(column, justify="left" if column == "recommender" else "right")
    for kind, figures in test.items():
        shown_metrics = ("recall", "ndcg_repeat", "ndcg_explore", "repeat_bias", "popularity")
        rest = [f"{100 * figures[metric]['mean']:.2f}" for metric in shown_metrics]
        table.add_row(kind, f"{100 * figures['ndcg']['mean']:.2f}", f"±{100 * figures['ndcg']['std']:.2f}", *rest)
    console.print(table)


def _report(path: Path, summary: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    from recsys.training.report import Plot, write_report

    lines = {key: summary[key] for key in ("plays", "sessions", "users", "tracks")}
    for kind, figures in summary["test"].items():
        lines |= {f"{kind} {metric}": round(value["mean"], 4) for metric, value in figures.items()}
    history = trained.get("valid", [])
    epochs = [float(epoch + 1) for epoch in range(len(history))]
    series = {"NDCG@10 of validation sessions": (epochs, [found["ndcg"] for found in history])}
    plots = [Plot("While it learns", "epoch", "NDCG@10", series)] if history else []
    write_report(path, title="Sessions", summary=lines, plots=plots)


if __name__ == "__main__":
    main()
