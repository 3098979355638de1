"""What is tried of models of sessions for docs/results/sessions.md: data, models, settings, and how one is judged."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
    """How a model learns: of item vectors the width, initial scale and rate, and what of its own fields."""

    width: int = 64
    scale: float = 0.1
    rate: float = 0.01
    fields: Mapping[str, Any] = field(default_factory=dict)


FAR_APART = Setting(scale=0.6, rate=0.005)  # for those that repeat by vectors
SETTINGS = {"pisa": FAR_APART, "actr_bpr": FAR_APART}  # others have the default; those below are chosen from
FITTED = {"memory": {"decay": 1.2}}  # what ACT-R alone takes of seed 0's training sessions
# as many for each; the first is what was there before anything was chosen
CHOICES: dict[str, tuple[Setting, ...]] = {
    "PISA-P": (FAR_APART, replace(FAR_APART, fields=FITTED), replace(FAR_APART, width=128, fields=FITTED)),
    "SASRec": (Setting(), Setting(rate=0.003), Setting(width=128)),
    "GRU4Rec": (Setting(), Setting(rate=0.003), Setting(width=128)),
}


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
            at = chosen(known, trial.model)
            if trial.seed == 0:  # it was judged as it was tried
                tried = known[Trial("choice", f"{trial.model} {at}", 0)]
                return {metric: tried[metric] for metric in METRICS}
            setting = CHOICES[trial.model][at]
        found = judge(_trained(_with(fields, setting, least), setting, log, trial), log, TEST)
    return {metric: found.mean(metric) for metric in METRICS}


def _tried(trial: Trial) -> dict[str, float]:
    """One of the settings that are chosen from, by the validation sessions of seed 0; and its test figures."""
    name, at = trial.model.rsplit(" ", 1)
    setting, log = CHOICES[name][int(at)], plant(PLANTED).log
    trained = _trained(_with(MODELS[name], setting, 1.0), setting, log, Trial("planted", name, trial.seed))
    test = judge(trained, log, TEST)
    return {"valid_ndcg": judge(trained, log, VALID).mean("ndcg"), **{metric: test.mean(metric) for metric in METRICS}}


def chosen(known: Mapping[Trial, Mapping[str, float]], name: str) -> int:
    """Which setting of a model was the best by validation; DataError where they were not all tried."""
    tried = [known.get(Trial("choice", f"{name} {at}", 0)) for at in range(len(CHOICES[name]))]
    found = [figures["valid_ndcg"] for figures in tried if figures is not None]
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
        table={"kind": "full", "embedding_dim": setting.width, "initial_scale": setting.scale},
        model=fields,
        optimizer={"kind": "adam", "learning_rate": setting.rate},
        dense_optimizer={"kind": "adam", "learning_rate": 0.002},
        seed=trial.seed,
    )
    trained = TrainedSessions(blueprint, log)
    trained.start(LocalRows(trained.groups))
    fit_sessions(trained, log, epochs=MOST_EPOCHS[trial.data], batch_size=64, patience=3, seed=trial.seed)
    return trained
