"""What learned from samples of one stream promises the same clicks, and as many as there are."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from benches.calibration import (
    BY_KIND,
    KINDS,
    NEGATIVES,
    Calibration,
    Stream,
    contenders,
    fitted,
    one_pass,
    results_of,
    sample,
    stream_of,
    tolerance,
)
from recsys.batches.examples import Example, example_schema, to_rows
from recsys.batches.sampling import Sampler, Sampling


@pytest.fixture(scope="module")
def stream() -> Stream:
    return stream_of(200_000)


def assert_calibrated(found: Sequence[Calibration]) -> None:
    for one in found:
        assert abs(math.log(one.ratio)) <= tolerance(one), one
    for one, other in combinations(found, 2):
        assert abs(math.log(one.ratio / other.ratio)) <= tolerance(one, other), (one, other)


def test_the_stream_has_as_many_events_as_asked_for(stream: Stream) -> None:
    assert stream.num_events == pytest.approx(200_000, rel=0.01)
    labels_N = np.array(stream.examples.column("label"))
    np.testing.assert_array_equal(labels_N, (stream.kinds_N > 0).astype(np.float32))
    assert 0.07 < labels_N.mean() < 0.1 and set(stream.kinds_N) == {0, 1, 2}


def test_columns_are_sampled_as_the_joiners_examples_are(stream: Stream) -> None:
    sampler = Sampler(BY_KIND, ("click", "purchase"), seed=0)
    names = [name for name in example_schema(()).names if not name.endswith("rate")]
    examples = [
        Example(
            **{**{name: row[name] for name in names}, "user_id": int(row["user_id"]), "item_id": int(row["item_id"])},
            values=b"",
            kinds=KINDS[kind],
        )
        for row, kind in zip(stream.examples.slice(0, 3000).to_pylist(), stream.kinds_N, strict=False)
    ]
    kept = to_rows(sampler.kept(examples), example_schema(()), 0).rows
    assert sample(stream, BY_KIND, 3000).select(example_schema(()).names).to_pylist() == kept.to_pylist()
    assert 0 < kept.num_rows < 1000


def test_samples_of_one_stream_are_calibrated_alike(stream: Stream) -> None:
    # not 0.01: of so short a stream it leaves 1,500 negatives for 500 parameters, too few to fit them to
    found = [fitted(stream, sampling) for sampling in contenders() if sampling.negatives >= 0.1]
    assert len(found) == 4
    assert_calibrated(found)
    assert [result.met for result in results_of(found)] == [None] * len(found) + [True, True]
    wrong = fitted(stream, Sampling(negatives=0.1), corrected=False)
    assert wrong.ratio > 3 and not results_of([*found, wrong])[-1].met


def test_the_trainer_learns_from_a_sample_what_it_learns_from_all(stream: Stream) -> None:
    """In one pass; its last state wobbles by a few percent, and without the correction is off by a multiple."""
    found = [one_pass(stream, Sampling(negatives=rate), steps=500) for rate in (0.3, 0.05)]
    assert [one.ratio for one in found] == pytest.approx([1, 1], abs=0.1)
    assert one_pass(stream, Sampling(negatives=0.05), corrected=False, steps=500).ratio > 3


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_samples_of_five_million_events_are_calibrated_alike() -> None:
    million = stream_of(5_000_000)
    found = [fitted(million, sampling) for sampling in contenders()]
    assert [one.sampling.negatives for one in found[:-1]] == list(NEGATIVES) == [1, 0.5, 0.1, 0.01]
    assert_calibrated(found)
