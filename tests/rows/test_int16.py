"""Rows of int16: scales are powers of two, and all that follows from it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.hashing import Floats
from recsys.rows.formats import FORMATS, Stored

INT16 = FORMATS["int16"]
ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(width=32, min_value=-(2.0**126), max_value=2.0**126, allow_subnormal=False),
)


def encoded(rows_UW: Floats, seed: int | None, step: int = 0) -> tuple[Stored, Floats]:
    """Codes and scales; rounded to the nearest where there is no seed."""
    slots_U = np.arange(len(rows_UW))
    values, scales = INT16.empty(*rows_UW.shape)
    if seed is None:
        INT16.encode_nearest(values, scales, slots_U, rows_UW)
    else:
        INT16.encode(values, scales, slots_U, slots_U, rows_UW, seed, step)
    return values, scales


def decoded(values: Stored, scales: Floats) -> Floats:
    rows = np.empty(values.shape, np.float32)
    INT16.decode(values, scales, np.arange(len(values)), rows)
    return rows


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, seed=st.none() | st.integers(0, 2**63 - 1), step=st.integers(0, 2**63 - 1))
def test_a_row_is_within_a_step_and_stays_itself_once_stored(rows: Floats, seed: int | None, step: int) -> None:
    values, scales = encoded(rows, seed, step)
    read = decoded(values, scales)
    largest = abs(rows.astype(np.float64)).max(1)
    mantissas, exponents = np.frexp(scales)
    assert (mantissas == 0.5).all()
    assert (largest <= 32767 * scales.astype(np.float64)).all()  # nothing is cut off
    smallest = exponents == -125  # 2^-126
    assert ((largest > 32767 * scales.astype(np.float64) / 2) | smallest).all()  # half the scale would not do
    np.testing.assert_array_equal(read, values.astype(np.float64) * scales[:, None])  # exact
    most = scales[:, None].astype(np.float64) * (0.5 if seed is None else 1.0)
    assert (abs(read.astype(np.float64) - rows) <= most).all()
    for again in (None, 3):
        np.testing.assert_array_equal(decoded(*encoded(read, again, step)), read)


def test_the_expectation_is_the_number_of_the_largest_too() -> None:
    row = np.array([1, -0.77, 0.5, 1e-5, -3e-6, 1e-9, 0.99999], np.float32)
    draws = 200_000
    values, scales = encoded(np.tile(row, (draws, 1)), seed=2)
    assert (scales == 2.0**-14).all()  # 1 is 16384 of them
    rows = decoded(values, scales).astype(np.float64)
    rests = row.astype(np.float64) / 2.0**-14 % 1
    sigmas = 2.0**-14 * np.sqrt(rests * (1 - rests) / draws)
    assert (abs(rows.mean(0) - row) <= 4 * sigmas + 2.0**-44).all()


def test_scales_of_rows_by_hand() -> None:
    rows = np.array([[32767, -1], [32767.5, 1], [0.75, 0], [0, 0]], np.float32)
    values, scales = encoded(rows, None)
    assert scales.tolist() == [1, 2, 2.0**-15, 2.0**-126]
    assert values.tolist() == [[32767, -1], [16384, 0], [24576, 0], [0, 0]]
