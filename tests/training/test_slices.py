"""Slices against a loop over the recorded stream that remembers whom it has learned of."""

import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from test_predictions import batch_of

from recsys.training.predictions import PredictionLog, carry_seen, drop_predictions, read_predictions
from recsys.training.slices import SLICES, by_slice, masks, write_seen

Step = list[tuple[int | str, int | str]]  # (user, item) of its examples


def write(folder: Path, steps: list[Step], *, worker: int = 0, after: int = 0, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    log = PredictionLog(folder, worker=worker, step=after)
    for number, step in enumerate(steps, after + 1):
        batch = batch_of(100 * number, len(step))
        batch.user_ids[:], batch.item_ids[:] = [user for user, _ in step], [item for _, item in step]  # type: ignore[index]
        log.add(number, batch, draw.random(len(step), np.float32))
    log.close()


def naive(steps: list[list[Step]]) -> dict[str, list[bool]]:
    """By slice, whether each example is of it: of each step, the parts of its workers."""
    users: set[int | str] = set()
    items: set[int | str] = set()
    found: dict[str, list[bool]] = {name: [] for name in SLICES}
    for parts in steps:
        for user, item in [example for part in parts for example in part]:
            found["new_user"].append(user not in users)
            found["new_item"].append(item not in items)
            found["returning"].append(user in users and item in items)
        users |= {user for part in parts for user, _ in part}
        items |= {item for part in parts for _, item in part}
    return found


# 7 and "7" are two
pairs = st.tuples(st.sampled_from([1, 2, 7, "7", "x"]), st.sampled_from([1, 2, 3, 7, "7"]))
streams = st.lists(st.tuples(st.lists(pairs, max_size=4), st.lists(pairs, max_size=4)), min_size=1, max_size=8)


@settings(max_examples=40)
@given(streams)
def test_slices_are_what_a_loop_over_the_stream_says(
    tmp_path_factory: pytest.TempPathFactory, stream: list[tuple[Step, Step]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    for worker in (0, 1):
        write(folder, [parts[worker] for parts in stream], worker=worker)
    predictions = read_predictions(folder)
    assert {name: mask.tolist() for name, mask in masks(predictions).items()} == naive([list(p) for p in stream])


def test_a_run_that_went_back_and_on_has_the_slices_of_one_that_did_not(tmp_path: Path) -> None:
    steps: list[Step] = [[(1, 1), (1, 2)], [(2, 1)], [(3, 3), (1, 1)], [(2, 3)]]
    write(tmp_path / "straight", steps)
    write(tmp_path / "back", steps[:3])
    drop_predictions(tmp_path / "back", after=1)
    write(tmp_path / "back", steps[1:], after=1)
    straight, back = (read_predictions(tmp_path / name) for name in ("straight", "back"))
    assert (
        masks(back)["new_user"].tolist()
        == masks(straight)["new_user"].tolist()
        == [True, True, True, True] + [False] * 2
    )
    assert masks(back)["new_item"].tolist() == [True, True, False, True, False, False]


def test_whom_a_run_before_it_learned_of_is_not_new(tmp_path: Path) -> None:
    write_seen(tmp_path / "first", {"user": pa.array(["9"]), "item": pa.array(['"7'])})
    write(tmp_path / "first", [[(1, 1)]])
    carry_seen(tmp_path / "first", tmp_path / "second")
    write(tmp_path / "second", [[(1, 2), (9, 7), (3, "7")], [(3, 2)]])
    found = masks(read_predictions(tmp_path / "second"))
    assert found["new_user"].tolist() == [False, False, True, False]
    assert found["new_item"].tolist() == [True, True, False, False]
    carry_seen(tmp_path / "nowhere", tmp_path / "third")
    write(tmp_path / "third", [[(1, 1)]])
    assert masks(read_predictions(tmp_path / "third"))["new_user"].tolist() == [True]


def test_figures_and_course_of_a_slice_are_those_of_its_examples(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    steps: list[Step] = [[(int(draw.integers(400)), int(draw.integers(900))) for _ in range(25)] for _ in range(120)]
    write(tmp_path, steps)
    predictions = read_predictions(tmp_path)
    labels, probabilities = predictions.column("label").to_numpy(), predictions.column("probability").to_numpy()
    slices = by_slice(predictions)
    for name, part in slices.items():
        places = np.flatnonzero(naive([[step] for step in steps])[name])
        found = part.metrics.over_last(1.0)
        assert found["num_examples"] == len(places)
        assert found["auc"] == pytest.approx(roc_auc_score(labels[places], probabilities[places]))
        course = part.course()
        ends = [0, *(int(np.searchsorted(places, at)) for at in course.num_examples)]  # places are counted from 0 here
        assert len(course.auc) == max(len(places) // 250, 1) and ends[-1] == len(places)
        for window, (start, end) in enumerate(itertools.pairwise(ends)):
            within = places[start:end]
            mean = labels[within].mean()
            loss = log_loss(labels[within], probabilities[within].astype(np.float64))
            entropy = -(mean * math.log(mean) + (1 - mean) * math.log(1 - mean))
            assert course.auc[window] == pytest.approx(roc_auc_score(labels[within], probabilities[within]))
            assert course.logloss[window] == pytest.approx(loss, abs=1e-6)
            assert course.normalized_entropy[window] == pytest.approx(loss / entropy, abs=1e-6)
            assert course.calibration[window] == pytest.approx(probabilities[within].mean() / mean)
    assert set(slices) == set(SLICES)
    assert slices["returning"].course().num_examples[-1] == 3000


def test_a_slice_without_examples_has_no_course(tmp_path: Path) -> None:
    write(tmp_path, [[(1, 1)]])
    part = by_slice(read_predictions(tmp_path))["returning"]
    assert part.metrics.num_examples == 0 and math.isnan(part.metrics.over_last(1.0)["auc"])
    assert part.course().num_examples == []
