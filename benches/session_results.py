"""What models of sessions reach, as docs/results/sessions.md: ``python -m benches.session_results``.

A line of JSON a trial goes to ``<folder>/session_results.jsonl``; trials that are there are not run again, so that the
command goes on where it was stopped (or where ``--minutes`` ended it). The page says of how many seeds each line is.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benches.running import or_error
from recsys.errors import DataError
from recsys.models.sessions import LEARNED, SIMPLE, build_session_config
from recsys.models.sessions.likelihood import PARAMETERS, fit_choice
from recsys.models.sessions.recommender import SessionBlueprint
from recsys.rows.local import LocalRows
from recsys.sessions.log import TEST, VALID, SessionLog, UserSplit
from recsys.sessions.logs import Logged, build_plays, read_log
from recsys.sessions.planted import Planted, plant
from recsys.training.session_metrics import METRICS, judge
from recsys.training.session_trainer import TrainedSessions, fit_sessions

SEEDS = range(5)
DECAYS = (0.3, 0.5, 0.8, 1.2)
FEW_HELD_OUT = UserSplit(valid=0, test=1)
PLANTED = Planted(
    num_users=300, num_tracks=2000, num_genres=100, popularity_exponent=0.3, repeat_share=0.35, spreading=0.6,
    partial_matching=0.3, split=UserSplit(valid=3, test=6),
)  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "global top": {"kind": "global_top"},
    "personal top": {"kind": "personal_top"},
    "ACT-R, live": {"kind": "actr", "memory": {}},
    "ACT-R, frozen": {"kind": "actr", "memory": {}, "live": False},
    "ACT-R, live and fitted": {"kind": "actr", "memory": {}, "fit": True},
    "TIFU-KNN": {"kind": "tifu_knn"},
    "UP-CF": {"kind": "up_cf"},
    "PISA-P": {"kind": "pisa", "window": 10, "negative_exponent": 0.5},
    "SASRec": {"kind": "sasrec", "negative_exponent": 0.5},
    "GRU4Rec": {"kind": "gru4rec"},
    "ACTR-BPR": {"kind": "actr_bpr", "negative_exponent": 0.5},
    "PISA-U": {"kind": "pisa", "window": 10},
    "RepeatNet": {"kind": "repeatnet", "stride": 10},
}
CITIES = ("nyc", "sin")
MOST_EPOCHS = {"planted": 24, "nyc": 16, "sin": 16}


@dataclass(frozen=True)
class Setting:
    """How a model learns: of item vectors the initial scale and the rate, and what of its own fields."""

    scale: float = 0.1
    rate: float = 0.01
    fields: Mapping[str, Any] = field(default_factory=dict)


FAR_APART = Setting(0.6, 0.005)  # for those that repeat by vectors
SETTINGS = {"pisa": FAR_APART, "actr_bpr": FAR_APART}  # others have the default; those below are chosen from
# as many for each; the first is what was there before anything was chosen
CHOICES: dict[str, tuple[Setting, ...]] = {
    "PISA-P": tuple(
        Setting(0.6, 0.005, {"memory": {"decay": decay}, "long_term_score": score})
        for decay, score in ((0.5, 0.5), (1.2, 0.5), (1.2, 0.2), (0.5, 0.2))
    ),
    "SASRec": (Setting(), Setting(0.1, 0.003), Setting(0.3, 0.01), Setting(0.3, 0.003)),
    "GRU4Rec": (Setting(), Setting(0.1, 0.003), Setting(0.3, 0.01), Setting(0.3, 0.003)),
}
_READ = (
    "Made by `python -m benches.session_results`, which goes on where it was stopped. Percent, but for what is "
    "fitted; ± is the standard deviation over seeds. Vectors are 64 wide; models learn for "
    f"{MOST_EPOCHS['planted']} epochs at most on planted plays, {MOST_EPOCHS['nyc']} on check-ins, and stop when three "
    "in a row are no better by validation: small budgets. What is planted was chosen by a few runs of seed 0. "
    "*Repeats* and *explored* are by the training sessions, as PISA's program has them, so that a track first heard in "
    "a held-out session counts as explored ever after: who ranks the last session's tracks first looks poor on repeats "
    "and good on exploration by that. *Heard* and *new* are by all that was heard before the session opens. *ACT-R, "
    "live* has a decay of 0.5, which is the planted one; fitted by base levels alone it comes out higher (1.2 of seed "
    "0), for it takes on what spreading and partial matching do, and ranks the better for that.\n"
)


@dataclass(frozen=True)
class Trial:
    """One line of the results."""

    data: str
    model: str
    seed: int


def trials() -> Iterator[Trial]:
    """What is quick, then seed by seed what shows the most."""
    for seed in SEEDS:
        yield from (Trial("fit", f"{decay:g}", seed) for decay in DECAYS)
        yield Trial("fit", "weights", seed)
    quick = [name for name, fields in MODELS.items() if fields["kind"] in SIMPLE]
    learned = [name for name, fields in MODELS.items() if fields["kind"] in LEARNED]
    yield from (Trial("planted", name, seed) for name in quick for seed in SEEDS)
    yield from (Trial(city, name, 0) for city in CITIES for name in quick)
    for name, choices in CHOICES.items():
        yield from (Trial("choice", f"{name} {at}", 0) for at in range(len(choices)))
        yield from (Trial("planted", name, seed) for seed in SEEDS[:3])
    yield from (Trial(CITIES[0], name, 0) for name in learned)
    yield from (Trial("planted", name, seed) for seed in SEEDS for name in learned)


def run_trial(trial: Trial, data: Path, known: Mapping[Trial, Mapping[str, float]]) -> dict[str, float]:
    """The figures of one trial; ``known`` are those of the trials before it."""
    if trial.data == "fit":
        return _fitted(trial)
    if trial.data == "choice":
        return _tried(trial)
    log, least = _log(trial, data)
    fields = dict(MODELS[trial.model])
    if fields["kind"] in SIMPLE:
        if "memory" in fields:
            fields["memory"] = {"min_age_seconds": least}
        found = judge(SIMPLE[fields["kind"]](build_session_config(fields), log), log, TEST)
    else:
        setting = SETTINGS.get(fields["kind"], Setting())
        if trial.data == "planted" and trial.model in CHOICES:
            setting = CHOICES[trial.model][chosen(known, trial.model)]
        found = judge(_trained(_with(fields, setting, least), setting, log, trial), log, TEST)
    return {metric: found.mean(metric) for metric in METRICS}


def _tried(trial: Trial) -> dict[str, float]:
    """One of the settings that are chosen from, by the validation sessions of seed 0."""
    name, at = trial.model.rsplit(" ", 1)
    setting, log = CHOICES[name][int(at)], plant(PLANTED).log
    trained = _trained(_with(MODELS[name], setting, 1.0), setting, log, Trial("planted", name, trial.seed))
    return {"ndcg": judge(trained, log, VALID).mean("ndcg")}


def chosen(known: Mapping[Trial, Mapping[str, float]], name: str) -> int:
    """Which setting of a model was the best by validation; DataError where they were not all tried."""
    tried = [known.get(Trial("choice", f"{name} {at}", 0)) for at in range(len(CHOICES[name]))]
    found = [figures["ndcg"] for figures in tried if figures is not None]
    if len(found) < len(tried):
        raise DataError(f"not all settings of {name} were tried; give it more --minutes")
    return int(np.argmax(found))


def _with(fields: Mapping[str, Any], setting: Setting, least: float) -> dict[str, Any]:
    """A model's fields with a setting's, and the least age of a play where it has a memory."""
    said = {**fields, **setting.fields}
    if fields["kind"] == "pisa":
        said["memory"] = {"min_age_seconds": least, **setting.fields.get("memory", {})}
    return said


def _fitted(trial: Trial) -> dict[str, float]:
    if trial.model != "weights":
        said = Planted(num_users=60, decay=float(trial.model), split=FEW_HELD_OUT)
        return {"decay": fit_choice(plant(said, trial.seed).log).choice.decay}
    made = plant(Planted(num_users=600, spreading=0.6, partial_matching=0.4, split=FEW_HELD_OUT), trial.seed)
    return asdict(fit_choice(made.log, free=PARAMETERS[1:], vectors_VD=made.vectors_VD).choice)


def _log(trial: Trial, data: Path) -> tuple[SessionLog, float]:
    """The sessions, and the least age of a play in seconds: clocks of check-ins know hours."""
    if trial.data == "planted":
        return plant(replace(PLANTED, seed=trial.seed)).log, 1.0
    return read_log(check_ins(trial.data, data))[0], 3600.0


def check_ins(city: str, data: Path) -> Logged:
    """The stand-in for music: K = 3, each user's last two sessions to judge by."""
    log = {
        "kind": "parquet", "files": [f"{city}.parquet"], "user": "user", "track": ["poi"], "session": "date_index",
        "time": {"date_index": 86_400, "hour": 3600},
    }  # fmt: skip
    rules = {"min_tracks": 3, "max_tracks": 3, "min_sessions": 8, "split": {"valid": 1, "test": 2}}
    plays = build_plays({"kind": "log", "folder": str(data / "foursquare_sessions"), "log": log, "rules": rules})
    assert isinstance(plays, Logged)
    return plays


def _trained(fields: Mapping[str, Any], setting: Setting, log: SessionLog, trial: Trial) -> TrainedSessions:
    blueprint = SessionBlueprint(
        table={"kind": "full", "embedding_dim": 64, "initial_scale": setting.scale},
        model=fields,
        optimizer={"kind": "adam", "learning_rate": setting.rate},
        dense_optimizer={"kind": "adam", "learning_rate": 0.002},
        seed=trial.seed,
    )
    trained = TrainedSessions(blueprint, log)
    trained.start(LocalRows(trained.groups))
    fit_sessions(trained, log, epochs=MOST_EPOCHS[trial.data], batch_size=64, patience=3, seed=trial.seed)
    return trained


def page(results: Mapping[Trial, Mapping[str, float]], data: Path) -> str:
    """The results as Markdown."""
    parts = [
        "# Sessions: what is recovered, and what is recommended\n",
        _READ,
        _fit_tables(results),
        f"## Planted sessions\n\n{_said_of_planted()}\n",
        _table(results, "planted"),
        _choice_table(results),
    ]
    for city in CITIES:
        if (data / "foursquare_sessions" / f"{city}.parquet").is_file():
            log, survivors = read_log(check_ins(city, data))
            left = "; ".join(f"{step}: {count['plays']:,} visits, {count['users']:,} users, {count['tracks']:,} places"
                             for step, count in survivors.items())  # fmt: skip
            parts.append(
                f"## Check-ins of foursquare_sessions ({city}), a stand-in for music\n\nNo log of music with many "
                f"users and clock times was to be had: these are visits, days as sessions, K = 3. Left: {left}; "
                f"{len(log.times_S):,} sessions. One seed.\n"
            )
            parts.append(_table(results, city))
    return "\n".join(parts)


def _said_of_planted() -> str:
    said = PLANTED
    return (
        f"{said.num_users} users, {said.num_sessions} sessions of {said.tracks_per_session}, {said.num_tracks} tracks "
        f"in {said.num_genres} genres; {said.repeat_share:.0%} repeats, decay {said.decay}, weights "
        f"{said.base_level:g} of the base level, {said.spreading} of spreading, {said.partial_matching} of partial "
        f"matching. Each user's last {said.split.test} sessions are judged, each asked as it opens."
    )


def _fit_tables(results: Mapping[Trial, Mapping[str, float]]) -> str:
    lines = ["## Decay and weights, fitted by maximum likelihood\n", "| planted | fitted | ± | furthest | seeds |"]
    lines.append("|---|---|---|---|---|")
    for decay in DECAYS:
        found = [value["decay"] for value in _of(results, "fit", f"{decay:g}")]
        lines.append(_fit_line(f"decay {decay:g} (60 users)", decay, found))
    weights = _of(results, "fit", "weights")
    for name, planted in (("base_level", 1.0), ("spreading", 0.6), ("partial_matching", 0.4)):
        lines.append(_fit_line(f"{name} {planted:g} (600 users)", planted, [value[name] for value in weights]))
    return "\n".join(lines) + "\n"


def _of(results: Mapping[Trial, Mapping[str, float]], data: str, model: str) -> list[Mapping[str, float]]:
    return [figures for trial, figures in results.items() if (trial.data, trial.model) == (data, model)]


def _fit_line(name: str, planted: float, found: list[float]) -> str:
    if not found:
        return f"| {name} | | | | 0 |"
    furthest = max(abs(value - planted) for value in found)
    return f"| {name} | {np.mean(found):.3f} | {np.std(found):.3f} | {furthest:.3f} | {len(found)} |"


def _choice_table(results: Mapping[Trial, Mapping[str, float]]) -> str:
    """What was tried of the settings that were chosen from; the best by validation is the one that is judged."""
    lines = [
        "### The settings that were chosen from\n",
        "Four for each, by validation sessions of seed 0; the first is what was there before. A model whose four were "
        "not all tried is not chosen for: its line above is of an earlier run, of the first setting and 16 epochs at "
        "most.\n",
        "| | initial scale | rate | fields | NDCG@10, validation |",
        "|---|---|---|---|---|",
    ]
    for name, settings in CHOICES.items():
        for at, setting in enumerate(settings):
            found = [100 * value["ndcg"] for value in _of(results, "choice", f"{name} {at}")]
            said = ", ".join(f"{key}: {value}" for key, value in setting.fields.items())
            lines.append(f"| {name} | {setting.scale} | {setting.rate} | {said} | {_cell(found)} |")
    return "\n".join(lines) + "\n"


def _table(results: Mapping[Trial, Mapping[str, float]], data: str) -> str:
    shown = {
        "NDCG@10": "ndcg", "Recall@10": "recall", "heard": "ndcg_heard", "new": "ndcg_new", "heard bias": "heard_bias",
        "repeats": "ndcg_repeat", "explored": "ndcg_explore", "repeat bias": "repeat_bias", "popularity": "popularity",
    }  # fmt: skip
    lines = [f"| | {' | '.join(shown)} | seeds |", "|---" * (2 + len(shown)) + "|"]
    for name in MODELS:
        if found := _of(results, data, name):
            cells = [_cell([100 * value[metric] for value in found if metric in value]) for metric in shown.values()]
            lines.append(f"| {name} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values):.2f}" if len(values) > 1 else "")


def known_results(path: Path) -> dict[Trial, dict[str, float]]:
    """The trials that were run before; DataError for a line that is none."""
    results = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            said = json.loads(line)
            results[Trial(**said["trial"])] = said["figures"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} has a line that is no trial: {line[:60]}; take it out") from error
    return results


def main(arguments: list[str] | None = None) -> int:
    """Run what is left, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="where foursquare_sessions is, if it is")
    parser.add_argument("--page", type=Path, default=Path("docs/results/sessions.md"))
    parser.add_argument("--minutes", type=float, default=120.0)
    given = parser.parse_args(arguments)

    def measured() -> int:
        given.folder.mkdir(parents=True, exist_ok=True)
        path, end = given.folder / "session_results.jsonl", time.monotonic() + 60 * given.minutes
        results = known_results(path)
        for trial in trials():
            absent = trial.data in CITIES and not (given.data / "foursquare_sessions").is_dir()
            if trial in results or absent or time.monotonic() > end:
                continue
            started = time.perf_counter()
            results[trial] = run_trial(trial, given.data, results)
            with path.open("a") as lines:
                lines.write(json.dumps({"trial": asdict(trial), "figures": results[trial]}) + "\n")
            print(f"{time.perf_counter() - started:6.1f} s  {trial}", flush=True)
        given.page.parent.mkdir(parents=True, exist_ok=True)
        given.page.write_text(page(results, given.data), encoding="utf-8")
        print(f"{len(results)} trials in {given.page}")
        return 0

    return or_error(measured)


if __name__ == "__main__":
    sys.exit(main())
