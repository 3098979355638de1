"""What models of sessions reach, as docs/results/sessions.md: ``python -m benches.session_results``.

A line of JSON a trial goes to ``<folder>/session_results.jsonl``; trials that are there are not run again, so that the
command goes on where it was stopped (or where ``--minutes`` ended it). The page says of how many seeds each line is.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benches.running import add_line, or_error
from benches.session_trials import (
    CHOICES,
    CITIES,
    DECAYS,
    MODELS,
    MOST_EPOCHS,
    PLANTED,
    Trial,
    check_ins,
    run_trial,
    trials,
)
from recsys.errors import DataError
from recsys.sessions.logs import read_log

_READ = (
    "Made by `python -m benches.session_results`, which goes on where it was stopped. Percent, but for what is "
    "fitted; ± is the standard deviation over seeds. Vectors are 64 wide where nothing else is said; models learn for "
    f"{MOST_EPOCHS['planted']} epochs at most on planted plays, {MOST_EPOCHS['nyc']} on check-ins, and stop when three "
    "in a row are no better by validation: small budgets. What is planted was chosen by a few runs of seed 0. "
    "*Repeats* and *explored* are by the training sessions, as PISA's program has them, so that a track first heard in "
    "a held-out session counts as explored ever after: who ranks the last session's tracks first looks poor on repeats "
    "and good on exploration by that. *Heard* and *new* are by all that was heard before the session opens. *ACT-R, "
    "live* has a decay of 0.5, which is the planted one; fitted by base levels alone it comes out higher (1.2 of seed "
    "0), for it takes on what spreading and partial matching do, and ranks the better for that.\n"
)


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
        "Three for each, by validation sessions of seed 0; the first is what was there before. A model whose three "
        "were not all tried is not chosen for: its line above is of an earlier run, of the first setting and 16 "
        "epochs at most.\n",
        "| | width | initial scale | rate | fields | NDCG@10, validation |",
        "|---|---|---|---|---|---|",
    ]
    for name, settings in CHOICES.items():
        for at, setting in enumerate(settings):
            found = [100 * value["valid_ndcg"] for value in _of(results, "choice", f"{name} {at}")]
            said = ", ".join(f"{key}: {value}" for key, value in setting.fields.items())
            lines.append(f"| {name} | {setting.width} | {setting.scale} | {setting.rate} | {said} | {_cell(found)} |")
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
            add_line(path, {"trial": asdict(trial), "figures": results[trial]})
            print(f"{time.perf_counter() - started:6.1f} s  {trial}", flush=True)
        given.page.parent.mkdir(parents=True, exist_ok=True)
        given.page.write_text(page(results, given.data), encoding="utf-8")
        print(f"{len(results)} trials in {given.page}")
        return 0

    return or_error(measured)


if __name__ == "__main__":
    sys.exit(main())
