"""Hyperparameters by Ray Tune: Optuna proposes (TPE; Akiba et al. 2019), ASHA stops what lags (Li et al. 2020).

A trial is a run of ``jobs.train`` in a folder of its own, named by its parameters. Each that has ended is a line of
``trials.jsonl``; a search that goes on tells Optuna of those, and first takes up the trials that were under way, each
from its last checkpoint. What Ray Tune writes itself are pickles: in a temporary folder, never read again.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from rich.console import Console

from recsys.errors import ServiceError
from recsys.fields import build
from recsys.runtime.cluster import ray_session
from recsys.runtime.parts import parts_of
from recsys.runtime.sections import TrainConfig
from recsys.runtime.settings import build_blueprint
from recsys.runtime.training import train
from recsys.tabular.prepared import open_examples
from recsys.training.epochs import RISES, Course
from recsys.training.space import Parameters, Space, Span, trial_name, with_parameters

TRIALS, PARAMETERS = "trials.jsonl", "parameters.json"
_BEST, _EPOCH = "best", "epoch"


@dataclass(frozen=True, kw_only=True)
class Search:
    """How many trials, how many of them at once, and how ASHA halves: after ``grace_epochs`` and each multiple."""

    trials: int
    at_once: int
    grace_epochs: int
    reduction_factor: int
    seed: int


def tune_runs(
    config: Mapping[str, Any], space: Space, search: Search, folder: Path, ray_address: str | None = None
) -> list[dict[str, Any]]:
    """Run trials until there are as many as asked for; the lines of all, the best first.

    ``config`` is that of jobs.train. ServiceError where a trial failed: the others are kept, and it is tried again by
    the same search.
    """
    settings = build(TrainConfig, config, "")
    folder = folder.absolute()  # trials are other processes
    lines = read_trials(folder)
    proposer = Proposer(space, search.seed, lines, _under_way(folder, lines), RISES[settings.fit.monitor])
    left = search.trials - len(lines)
    if left > 0:
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # data is found from here
        scheduler = ASHAScheduler(
            time_attr=_EPOCH,
            max_t=settings.epochs,
            grace_period=min(search.grace_epochs, settings.epochs),
            reduction_factor=search.reduction_factor,
        )
        with ray_session(ray_address), tempfile.TemporaryDirectory() as beside:
            results = tune.Tuner(
                lambda parameters: run_trial(config, parameters, folder),
                tune_config=tune.TuneConfig(
                    metric=_BEST,
                    mode="max",
                    search_alg=proposer,
                    scheduler=scheduler,
                    num_samples=left,
                    max_concurrent_trials=search.at_once,
                ),
                run_config=tune.RunConfig(storage_path=beside, verbose=0, callbacks=[_Lines(folder)]),
            ).fit()
        if results.errors:
            raise ServiceError(f"{len(results.errors)} trials failed: {_reason(results.errors[0])}; see {folder}")
    return sorted(read_trials(folder), key=lambda line: -line["best"])


def run_trial(config: Mapping[str, Any], parameters: Parameters, folder: Path) -> None:
    """One run of jobs.train, from its last checkpoint where it has one; Ray Tune hears of each epoch."""
    within = folder / trial_name(parameters)
    within.mkdir(parents=True, exist_ok=True)
    (within / PARAMETERS).write_text(json.dumps(dict(parameters)) + "\n", encoding="utf-8")
    begun = any(within.glob("checkpoints/*/manifest.json"))
    changed = with_parameters(config, parameters) | {"resume": str(within) if begun else None}
    settings = build(TrainConfig, changed, "")
    prepared = None if settings.data.examples is None else open_examples(settings.data)
    blueprint = build_blueprint(changed, None if prepared is None else prepared.features)
    rises = RISES[settings.fit.monitor]

    def report(course: Course) -> None:
        assert course.best is not None
        tune.report({_EPOCH: course.epoch, _BEST: rises * course.best})

    with (within / "train.log").open("a", encoding="utf-8") as log:
        console = Console(file=log)
        parts = parts_of(settings, prepared, within, console)
        train(settings, blueprint, parts, within, console, on_validated=report)


class Proposer(Searcher):
    """Optuna as Ray Tune asks for it: it knows ``lines`` of before, and proposes ``again`` first."""

    def __init__(
        self, space: Space, seed: int, lines: Sequence[Mapping[str, Any]], again: Sequence[Parameters], rises: int
    ) -> None:
        super().__init__(metric=_BEST, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed + len(lines))  # what goes on does not propose the same again
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._space = {name: _distribution(one) for name, one in space.items()}
        self._asked: dict[str, optuna.Trial] = {}
        for line in lines:
            known = optuna.trial.create_trial(
                params=dict(line["parameters"]), distributions=self._space, value=line["best"]
            )
            self._study.add_trial(known)
        for parameters in again:
            self._study.enqueue_trial(dict(parameters))

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """See Searcher: the parameters of a new trial."""
        self._asked[trial_id] = self._study.ask(self._space)
        return dict(self._asked[trial_id].params)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See Searcher: what ASHA stopped counts as far as it came."""
        if error or result is None or _BEST not in result:
            self._study.tell(self._asked[trial_id], state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(self._asked[trial_id], result[_BEST])

    def save(self, checkpoint_path: str) -> None:
        """See Searcher: nothing, for ``trials.jsonl`` has it."""

    def restore(self, checkpoint_path: str) -> None:
        """See Searcher: never asked for."""


class _Lines(tune.Callback):
    """Appends a line for each trial that has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See Callback."""
        name = trial_name(trial.config)
        summary = self._folder / name / "summary.json"
        line = {
            "trial": name,
            "parameters": trial.config,
            "best": trial.last_result[_BEST],
            "epochs": trial.last_result[_EPOCH],
            "test": json.loads(summary.read_text())["test"] if summary.exists() else None,  # None: ASHA stopped it
        }
        with (self._folder / TRIALS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """The trials that have ended, in that order."""
    path = folder / TRIALS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _under_way(folder: Path, lines: Sequence[Mapping[str, Any]]) -> list[Parameters]:
    """The parameters of trials that began and have no line."""
    ended = {line["trial"] for line in lines}
    found = sorted(folder.glob(f"*/{PARAMETERS}"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in found if path.parent.name not in ended]


def _distribution(span: Span) -> Any:
    """As Optuna has it."""
    if span.choices is not None:
        return optuna.distributions.CategoricalDistribution(span.choices)
    assert span.low is not None and span.high is not None
    if isinstance(span.low, int) and isinstance(span.high, int):
        return optuna.distributions.IntDistribution(span.low, span.high, log=span.log)
    return optuna.distributions.FloatDistribution(span.low, span.high, log=span.log)


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]
