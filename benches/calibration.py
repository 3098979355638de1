"""Probabilities learned from samples of one stream, against the labels of its end: ``make calibration``.

Impressions of known probability come by the million, some with a click, some of those with a purchase. One set of keep
rates after the other leaves something of the first nine tenths; the mean prediction of what learned that, over the mean
label of the last tenth, of which nothing was left out, should be 1 and that of all the others.

Held to that is a logistic regression of the stream's own form, by the trainer's loss and to its optimum: it uses all
that was kept, which is what the standard errors are of. ``--one-pass`` adds DeepFM by the trainer, as online: its last
state leans on the latest examples, and wobbles by more than those errors. Leaves ``calibration.json`` and ``.html`` in
``runs/bench``.

The stream is made as columns, past the joiner: ``sample`` does to them what ``Sampler.kept`` does to examples, and a
test holds it to that.

Shape suffixes: N impressions, U users, I items, C cells (distinct examples).
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from rich.console import Console

from benches.result import Result, Target, alone, print_results, write_results
from recsys.batches.batch import KeepRates
from recsys.batches.examples import example_schema
from recsys.batches.sampling import Sampler, Sampling, draws
from recsys.features.declarations import Feature
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.training import metrics
from recsys.training.fit import batches_of
from recsys.training.report import Plot
from recsys.training.trainer import Trainer, cross_entropy

TITLE = "Calibration of what learned from a sample"
NEGATIVES = (1.0, 0.5, 0.1, 0.01)
BY_KIND = Sampling(negatives=0.1, actions={"click": 0.3})  # purchases are all kept
KINDS: tuple[tuple[str, ...], ...] = ((), ("click",), ("click", "purchase"))
FEATURES = (
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="item", kind="id", source="item.id"),
)
BLUEPRINT = Blueprint(
    features=FEATURES,
    table={"kind": "collisionless", "embedding_dim": 4},
    model={"kind": "deepfm", "hidden_sizes": [8]},
    optimizer={"kind": "adagrad", "learning_rate": 0.05},
    dense_optimizer={"kind": "adagrad", "learning_rate": 0.05},
)
_NUM_USERS, _NUM_ITEMS = 300, 200
_NUM_STEPS = 3000  # of every contender: one that took fewer would just not be done
_SEED = 0


@dataclass(frozen=True)
class Stream:
    """Impressions, what came of each (a place in KINDS), and what sampling draws for it."""

    examples: pa.Table
    kinds_N: npt.NDArray[np.int64]
    draws_N: npt.NDArray[np.float64]

    @property
    def num_events(self) -> int:
        """Impressions, and an event for every action."""
        return len(self.kinds_N) + int(self.kinds_N.sum())


@dataclass(frozen=True)
class Calibration:
    """Mean prediction over mean label, and the standard error of its logarithm."""

    sampling: Sampling
    num_learned: int
    ratio: float
    standard_error: float
    auc: float


def stream_of(num_events: int, seed: int = _SEED) -> Stream:
    """About ``num_events`` events: 8 % of impressions have a click, by user and item; a fifth of those a purchase."""
    draw = np.random.default_rng(seed)
    users_U, items_I = draw.normal(0, 0.7, _NUM_USERS), draw.normal(0, 0.7, _NUM_ITEMS)
    num = round(num_events / 1.1)
    user_N, item_N = draw.integers(_NUM_USERS, size=num), draw.integers(_NUM_ITEMS, size=num)
    probabilities_N = 1 / (1 + np.exp(2.75 - users_U[user_N] - items_I[item_N]))
    clicked_N = draw.random(num) < probabilities_N
    kinds_N = clicked_N.astype(np.int64) + (clicked_N & (draw.random(num) < 0.2))
    request_ids = np.char.mod("r%d", np.arange(num))
    return Stream(_table(request_ids, user_N, item_N, clicked_N), kinds_N, draws(request_ids, _SEED))


def _table(
    request_ids: npt.NDArray, user_N: npt.NDArray, item_N: npt.NDArray, clicked_N: npt.NDArray[np.bool_]
) -> pa.Table:
    """Examples as they come out of the joiner, with the rates of a stream of which nothing is left out."""
    num = len(user_N)
    ones_N, times_N = np.ones(num, np.float32), np.arange(num)
    columns = {
        "request_id": pa.array(request_ids),
        "user_id": pa.array(user_N).cast(pa.string()),
        "item_id": pa.array(item_N).cast(pa.string()),
        "label": clicked_N.astype(np.float32),
        "feature.user": _one_each(user_N),
        "feature.item": _one_each(item_N),
        **dict.fromkeys(("time_ms", "emitted_ms", "read_at_ms"), times_N),
        **dict.fromkeys(("weight", "keep_rate", "positive_rate", "negative_rate"), ones_N),
    }
    schema = example_schema(FEATURES)
    return pa.table([columns[name] for name in schema.names], schema)


def _one_each(ids_N: npt.NDArray) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.arange(len(ids_N) + 1, dtype=np.int32), ids_N)


def sample(stream: Stream, sampling: Sampling, until: int) -> pa.Table:
    """What these rates leave of the first ``until`` impressions, with the rates beside it, as a joiner leaves it."""
    sampler = Sampler(sampling, ("click", "purchase"), _SEED)
    rates_N = np.array([sampler.rate_of(kinds) for kinds in KINDS])[stream.kinds_N[:until]]
    kept_N = stream.draws_N[:until] < rates_N
    rows = stream.examples.slice(0, until).filter(kept_N)
    for name, rates in (
        ("keep_rate", rates_N[kept_N]),
        ("positive_rate", np.full(rows.num_rows, sampler.positives)),
        ("negative_rate", np.full(rows.num_rows, sampler.negatives)),
    ):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(rates, pa.float32()))
    return rows


def fitted(stream: Stream, sampling: Sampling, *, corrected: bool = True) -> Calibration:
    """What these rates leave of the first nine tenths fitted to the optimum, judged on the last tenth."""
    until = stream.examples.num_rows * 9 // 10
    learned, last = sample(stream, sampling, until), stream.examples.slice(until)
    parameters = _optimum(learned, corrected)
    with torch.no_grad():
        predicted_N = torch.sigmoid(_logits(parameters, *_ids(last))).numpy()
    return _judged(sampling, learned, last, predicted_N)


def _optimum(learned: pa.Table, corrected: bool) -> list[torch.Tensor]:
    """Bias, users' and items' parts of the logit that have the least loss; equal examples are taken together."""
    names = ["label", "keep_rate", "positive_rate", "negative_rate"]
    columns_NX = np.stack([*_ids(learned), *(np.array(learned.column(name)) for name in names)], axis=1)
    cells_CX, counts_C = np.unique(columns_NX.astype(np.float32), axis=0, return_counts=True)
    user_C, item_C = cells_CX[:, 0].astype(np.int64), cells_CX[:, 1].astype(np.int64)
    labels_C, weights_C = torch.from_numpy(cells_CX[:, 2].copy()), torch.from_numpy(counts_C / counts_C.sum())
    rates = KeepRates(*(cells_CX[:, at].copy() for at in (3, 4, 5))) if corrected else None
    parameters = [torch.zeros(size, requires_grad=True) for size in (1, _NUM_USERS, _NUM_ITEMS)]
    solver = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> torch.Tensor:
        solver.zero_grad()
        mean = (weights_C * cross_entropy(_logits(parameters, user_C, item_C), labels_C, rates)).sum()
        mean.backward()
        return mean

    solver.step(loss)
    return parameters


def _logits(
    parameters: Sequence[torch.Tensor], user_N: npt.NDArray[np.int64], item_N: npt.NDArray[np.int64]
) -> torch.Tensor:
    bias, users_U, items_I = parameters
    return bias + users_U[torch.from_numpy(user_N)] + items_I[torch.from_numpy(item_N)]


def _ids(rows: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    user_N, item_N = (np.array(rows.column(f"feature.{of}").combine_chunks().flatten()) for of in ("user", "item"))
    return user_N, item_N


def one_pass(stream: Stream, sampling: Sampling, *, corrected: bool = True, steps: int = _NUM_STEPS) -> Calibration:
    """The same, learned in one pass by the trainer: its last state."""
    until = stream.examples.num_rows * 9 // 10
    learned, last = sample(stream, sampling, until), stream.examples.slice(until)
    recommender = Recommender(BLUEPRINT)
    trainer = Trainer(recommender, LocalRows(recommender.groups, threads=1))
    trainer.start()
    for batch in batches_of(learned, FEATURES, max(1, learned.num_rows // steps)):
        trainer.step(batch if corrected else replace(batch, rates=None))
    predicted_N = np.concatenate([trainer.predict(batch) for batch in batches_of(last, FEATURES, 16_384)])
    return _judged(sampling, learned, last, predicted_N)


def _judged(sampling: Sampling, learned: pa.Table, last: pa.Table, predicted_N: npt.NDArray) -> Calibration:
    labels_N, kept_N = np.array(last.column("label")), np.array(learned.column("label")) > 0
    # of a log odds learned from so many of each class, as they weigh, and of the mean label it is held against
    weights_N = 1 / np.array(learned.column("keep_rate"), np.float64)
    variances = [(w**2).sum() / w.sum() ** 2 for w in (weights_N[kept_N], weights_N[~kept_N], labels_N)]
    return Calibration(
        sampling,
        learned.num_rows,
        metrics.calibration(labels_N, predicted_N),
        math.sqrt(sum(variances)),
        metrics.auc(labels_N, predicted_N),
    )


def contenders() -> list[Sampling]:
    """The sets of rates that are compared."""
    return [*(Sampling(negatives=rate) for rate in NEGATIVES), BY_KIND]


def tolerance(*ones: Calibration) -> float:
    """How far two may be apart, or one from 1: 3 %, or three standard errors where that is more."""
    return max(0.03, 3 * math.hypot(*(one.standard_error for one in ones)))


def results_of(found: Sequence[Calibration]) -> list[Result]:
    """A line each, and the largest distances, as shares of what is tolerated."""
    from_1 = [abs(math.log(one.ratio)) / tolerance(one) for one in found]
    apart = [abs(math.log(one.ratio / other.ratio)) / tolerance(one, other) for one, other in combinations(found, 2)]
    most = Target(value=1, bound="most")
    return [
        *(alone(f"calibration, {name_of(one.sampling)}", "predicted / label", [one.ratio]) for one in found),
        alone("largest distance from 1", "of the tolerance", [max(from_1)], most),
        alone("largest distance between two", "of the tolerance", [max(apart, default=0.0)], most),
    ]


def name_of(sampling: Sampling) -> str:
    """Rates as people read them."""
    return ", ".join([f"negatives {sampling.negatives:g}", *(f"{k}s {rate:g}" for k, rate in sampling.actions.items())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 where a distance is more than is tolerated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--one-pass", action="store_true", help="the trainer too (a quarter of an hour)")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console, started = Console(soft_wrap=True, highlight=False), time.perf_counter()
    stream = stream_of(given.events)
    found, passed = [], []
    for sampling in contenders():
        found.append(fitted(stream, sampling))
        console.print(f"{time.perf_counter() - started:6.1f} s  {_told(found[-1])}")
    wrong = fitted(stream, Sampling(negatives=NEGATIVES[-1]), corrected=False)
    for sampling in contenders() if given.one_pass else []:
        passed.append(one_pass(stream, sampling))
        console.print(f"{time.perf_counter() - started:6.1f} s  in one pass, {_told(passed[-1])}")
    results = [
        *results_of(found),
        alone(f"calibration, {name_of(wrong.sampling)}, uncorrected", "predicted / label", [wrong.ratio]),
        *(alone(f"… in one pass, {name_of(one.sampling)}", "predicted / label", [one.ratio]) for one in passed),
    ]
    about = {"events": stream.num_events, "impressions": stream.examples.num_rows}
    write_results(given.folder, "calibration", TITLE, results, about, [_plot(found)])
    print_results(Console(), TITLE, results)
    return int(any(result.met is False for result in results))


def _told(one: Calibration) -> str:
    numbers = f"calibration {one.ratio:.4f}, standard error {one.standard_error:.4f}, AUC {one.auc:.4f}"
    return f"{name_of(one.sampling)}: {one.num_learned:,} examples, {numbers}"


def _plot(found: Sequence[Calibration]) -> Plot:
    alike = [one for one in found if not one.sampling.actions]
    points = ([one.sampling.negatives for one in alike], [one.ratio for one in alike])
    return Plot(TITLE, "share of negatives kept", "mean prediction / mean label", {"corrected": points}, log_x=True)


if __name__ == "__main__":
    sys.exit(main())
