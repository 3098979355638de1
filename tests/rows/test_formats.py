"""Row formats against numpy's and torch's conversions, number by number, and what stochastic rounding promises."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys import hashing
from recsys.hashing import Floats, Keys
from recsys.rows.formats import FORMATS, Format, Stored

Way = Callable[[Format, Floats], Floats]
LOW = ["float16", "bfloat16", "int8", "int16"]
LARGEST = {"float16": 65504.0, "bfloat16": float(torch.finfo(torch.bfloat16).max), "int16": 32767 * 2.0**113}
ALL_BITS = np.arange(2**16, dtype=np.uint16)


def stored(format_: Format, rows_UW: Floats, seed: int = 0, step: int = 0, keys_U: Keys | None = None) -> Stored:
    """What the rows become when they are encoded stochastically, as float32."""
    slots_U = np.arange(len(rows_UW))
    values, scales = format_.empty(*rows_UW.shape)
    format_.encode(values, scales, slots_U, slots_U if keys_U is None else keys_U, rows_UW, seed, step)
    return decoded(format_, values, scales)


def nearest(format_: Format, rows_UW: Floats) -> Floats:
    values, scales = format_.empty(*rows_UW.shape)
    format_.encode_nearest(values, scales, np.arange(len(rows_UW)), rows_UW)
    return decoded(format_, values, scales)


def decoded(format_: Format, values: Stored, scales: Floats) -> Floats:
    rows = np.full(values.shape, -9, np.float32)
    format_.decode(values, scales, np.arange(len(values)), rows)
    return rows


def torch_float32(name: str, bits: Stored) -> Floats:
    """The oracle of decoding."""
    return torch.from_numpy(bits.copy()).view(getattr(torch, name)).float().numpy()


def neighbours(name: str, numbers: Floats) -> tuple[Floats, Floats]:
    """The largest number of the format that is not above, and the smallest not below; torch rounds, we step."""
    kind = getattr(torch, name)
    near = torch.from_numpy(numbers).to(kind)
    below = torch.where(near.float() > torch.from_numpy(numbers), stepped(near, -1), near).float().numpy()
    above = torch.where(near.float() < torch.from_numpy(numbers), stepped(near, 1), near).float().numpy()
    return below, above


def stepped(numbers: torch.Tensor, by: int) -> torch.Tensor:
    """The next number of the format: bit patterns, made monotonic, plus or minus 1."""
    bits = numbers.view(torch.int16).int()
    line = torch.where(bits < 0, -(bits & 0x7FFF), bits) + by
    back = torch.where(line < 0, (-line) | 0x8000, line)
    return torch.where(back >= 0x8000, back - 0x10000, back).to(torch.int16).view(numbers.dtype)


def any_floats(seed: int, number: int) -> Floats:
    """Finite float32 numbers of all magnitudes."""
    bits = np.random.default_rng(seed).integers(0, 2**32, number, np.uint32)
    numbers = bits.view(np.float32)
    return numbers[np.isfinite(numbers)]


# --- bit by bit


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_bit_pattern_decodes_as_in_torch(name: str) -> None:
    format_ = FORMATS[name]
    rows = decoded(format_, ALL_BITS.view(format_.dtype).reshape(-1, 16), np.zeros(0, np.float32)).reshape(-1)
    expected = torch_float32(name, ALL_BITS)
    number = ~np.isnan(expected)
    assert rows[number].tobytes() == expected[number].tobytes()  # the zeros' signs too
    assert np.isnan(rows[~number]).all() and (~number).sum() > 100


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("way", ["stochastic", "nearest"])
def test_every_number_of_the_format_stays_itself(name: str, way: str) -> None:
    format_ = FORMATS[name]
    numbers = torch_float32(name, ALL_BITS)
    kept = np.isfinite(numbers)
    slots = np.arange(kept.sum())
    values, scales = format_.empty(len(slots), 1)
    for seed in range(3):
        if way == "stochastic":
            format_.encode(values, scales, slots, slots, numbers[kept, None], seed, 7)
        else:
            format_.encode_nearest(values, scales, slots, numbers[kept, None])
        np.testing.assert_array_equal(values[:, 0].view(np.uint16), ALL_BITS[kept])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_nearest_is_torchs_rounding(name: str) -> None:
    halves = torch_float32(name, ALL_BITS)
    halves = np.sort(halves[np.isfinite(halves)])
    ties = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    numbers = np.concatenate([any_floats(1, 200_000), ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    expected = torch.from_numpy(numbers).to(getattr(torch, name)).float().numpy()
    expected = np.clip(expected, -LARGEST[name], LARGEST[name])  # where torch's overflows
    rows = nearest(FORMATS[name], numbers[:, None])[:, 0]
    np.testing.assert_array_equal(rows.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_stochastic_rounding_takes_one_of_the_two_neighbours(name: str) -> None:
    small = any_floats(3, 100_000) * np.float32(1e-20)
    usual = np.random.default_rng(4).standard_normal(100_000).astype(np.float32) * np.float32(1e-5)
    numbers = np.concatenate([any_floats(2, 200_000), small, usual])
    numbers = numbers[np.abs(numbers) <= LARGEST[name]]
    below, above = neighbours(name, numbers)
    rows = stored(FORMATS[name], numbers[:, None])[:, 0]
    assert ((rows == below) | (rows == above)).all()
    chances = (numbers - below.astype(np.float64)) / np.where(above > below, above.astype(np.float64) - below, 1)
    expected, variance = chances.sum(), (chances * (1 - chances)).sum()
    assert abs((rows == above)[below < above].sum() - expected) < 4 * np.sqrt(variance)


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize("way", [stored, nearest])
def test_numbers_out_of_range(name: str, way: Way) -> None:
    largest = LARGEST.get(name, float(np.finfo(np.float32).max))
    beyond = np.array([[np.inf, -np.inf, np.finfo(np.float32).max, -np.finfo(np.float32).max]], np.float32)
    rows = way(FORMATS[name], beyond)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows, [[largest, -largest, largest, -largest]], rtol=2.0**-16)
    if not FORMATS[name].has_scales:
        assert np.isnan(way(FORMATS[name], np.array([[np.nan, -np.nan]], np.float32))).all()
        return
    two = way(FORMATS[name], np.array([[1, np.nan], [1, 0.5]], np.float32))
    assert np.isnan(two[0]).all() and not np.isnan(two[1]).any()


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros(name: str) -> None:
    zeros = np.zeros((50, 3), np.float32)
    mixed = np.tile(np.array([0, 1e-3, -7.7], np.float32), (50, 1))
    for seed in range(20):
        assert not stored(FORMATS[name], zeros, seed).any()
        assert not stored(FORMATS[name], mixed, seed)[:, 0].any()
    assert not nearest(FORMATS[name], zeros).any()


def test_float32_is_kept_to_the_bit() -> None:
    numbers = np.arange(2**20, dtype=np.uint32).reshape(-1, 16) * np.uint32(4093)
    for rows in (stored(FORMATS["float32"], numbers.view(np.float32)), nearest(FORMATS["float32"], numbers.view("f4"))):
        np.testing.assert_array_equal(rows.view(np.uint32), numbers)


# --- slots


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_slots_named_are_read_and_written(name: str) -> None:
    format_, width = FORMATS[name], 5
    rows = np.random.default_rng(0).standard_normal((200, width)).astype(np.float32)
    slots = np.random.default_rng(1).permutation(300)[:200]
    others = np.setdiff1d(np.arange(300), slots)
    values, scales = format_.empty(300, width)
    format_.encode(values, scales, slots, slots, rows, 3, 4)
    assert not values[others].any() and not (format_.has_scales and scales[others].any())
    read = np.full((203, width), -9, np.float32)
    format_.decode(values, scales, np.concatenate([[-1], slots, [-1, others[0]]]), read)
    assert (read[[0, 201]] == -9).all() and (read[202] == 0).all()
    # a row does not depend on its slot, or on what is stored beside it
    np.testing.assert_array_equal(read[1:201], stored(format_, rows, 3, 4, keys_U=slots))
    assert format_.row_bytes(width) * 300 == values.nbytes + scales.nbytes


# --- the draws


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("number", [0.1, -0.1, 1.0001, -3e-5, 7.1e-8, -2e-9, 1e-12, 60_001.7, 1e-40])
def test_the_expectation_is_the_number(name: str, number: float) -> None:
    draws = 400_000
    rows = np.full((draws // 8, 8), number, np.float32)
    value = np.float64(rows[0, 0])
    below, above = (float(side[0]) for side in neighbours(name, rows[0, :1]))
    likely = (value - below) / (above - below)
    found = (stored(FORMATS[name], rows, seed=11, step=5).astype(np.float64) == above).mean()
    assert abs(found - likely) <= 4 * np.sqrt(likely * (1 - likely) / draws)


def test_the_expectation_of_int8_is_the_number() -> None:
    row = np.array([1, -0.77, 0.5, 0.01, -0.0001, 1e-9, 0.9999], np.float32)
    draws = 200_000
    rows = stored(FORMATS["int8"], np.tile(row, (draws, 1)), seed=2).astype(np.float64)
    scale = 1 / 127
    # a code's variance is at most 1/4 scale²; the scale's own is less by 2^-16 and more
    assert (abs(rows.mean(0) - row) <= 4 * scale * 0.51 / np.sqrt(draws)).all()
    assert rows[:, 1].std() > 0.1 * scale


@pytest.mark.parametrize(
    ("name", "step_size"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7), ("int8", 4 / 127), ("int16", 2.0**-12)]
)
def test_many_small_updates_add_up(name: str, step_size: float) -> None:
    """The reason for all this: 2,000 updates of less than half a step, lost when rounding to the nearest."""
    format_, keys = FORMATS[name], np.arange(1000)
    update = np.array([0, 1e-4], np.float32)
    values, scales = format_.empty(1000, 2)
    format_.encode_nearest(values, scales, keys, np.tile(np.array([4, 1], np.float32), (1000, 1)))
    lost, lost_scales = values.copy(), scales.copy()
    start = decoded(format_, values, scales).astype(np.float64)
    for step in range(2000):
        format_.encode(values, scales, keys, keys, decoded(format_, values, scales) + update, 0, step)
        format_.encode_nearest(lost, lost_scales, keys, decoded(format_, lost, lost_scales) + update)
    np.testing.assert_array_equal(decoded(format_, lost, lost_scales), start)
    # each step adds at most step²/4 to a row's variance
    four_sigma = 4 * step_size / 2 * np.sqrt(2000 / 1000)
    assert abs((decoded(format_, values, scales) - start).mean(0) - [0, 0.2]).max() < four_sigma < 0.2


@pytest.mark.parametrize("name", LOW)
def test_draws_depend_on_seed_key_step_and_column_alone(name: str) -> None:
    format_ = FORMATS[name]
    rows = np.full((4000, 6), 0.123, np.float32)
    rows[:, 0] = 1  # the largest, in int8
    keys = np.random.default_rng(5).integers(-(2**63), 2**63 - 1, 4000)
    first = stored(format_, rows, seed=1, step=9, keys_U=keys)
    shuffled = np.random.default_rng(6).permutation(4000)
    np.testing.assert_array_equal(stored(format_, rows, 1, 9, keys[shuffled]), first[shuffled])
    split = [stored(format_, rows[part::3], 1, 9, keys[part::3]) for part in range(3)]
    np.testing.assert_array_equal(np.concatenate(split), np.concatenate([first[part::3] for part in range(3)]))
    above = (first > rows)[:, 1:]
    for others in (stored(format_, rows, 2, 9, keys), stored(format_, rows, 1, 10, keys)):
        different = (others > rows)[:, 1:]
        for column in range(5):
            assert abs(np.corrcoef(above[:, column], different[:, column])[0, 1]) < 4.5 / np.sqrt(4000)


def drawn(keys_U: Keys, width: int, seed: int, step: int) -> Stored:
    """The random bits (U, width), uint32, by numpy: they may never change, or a replay would not repeat a run."""
    stream = hashing.mix64(np.array([step]), seed)
    mixed = hashing.mix64((keys_U.view(np.uint64) ^ stream).view(np.int64), seed)[:, None]
    bits = mixed.astype(np.uint32) + np.arange(width, dtype=np.uint32) * np.uint32(0x9E3779B9)
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = ((bits ^ (bits >> np.uint32(15))) + (mixed >> np.uint64(32)).astype(np.uint32)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 2), (2**63 - 1, 2**62)])
def test_draws_are_these_and_no_others(seed: int, step: int) -> None:
    keys = np.array([0, 1, -1, 2**63 - 1, -(2**63), 77])
    bits = (np.float32(1.5).view(np.uint32) + np.arange(6 * 20, dtype=np.uint32) * np.uint32(547)).reshape(6, 20)
    expected = ((bits + (drawn(keys, 20, seed, step) >> np.uint32(16))) >> np.uint32(16)) << np.uint32(16)
    rows = stored(FORMATS["bfloat16"], bits.view(np.float32), seed, step, keys)
    np.testing.assert_array_equal(rows.view(np.uint32), expected)


@pytest.mark.parametrize("stride", [1, 2**16, 2**32, 2**48])
def test_draws_of_neighbouring_keys_steps_and_columns_are_independent(stride: int) -> None:
    numbers = np.full((1 << 16, 4), 1 + 2.0**-8, np.float32)  # half way between two bfloat16
    keys = np.arange(1 << 16) * stride
    up = np.concatenate([stored(FORMATS["bfloat16"], numbers, 3, step, keys) > 1 for step in range(3)], axis=1)
    sigma = 1 / np.sqrt(len(keys))
    off_diagonal = np.corrcoef(up.T) - np.eye(up.shape[1])
    assert abs(off_diagonal).max() < 4.5 * sigma
    assert abs(up.mean(0) - 0.5).max() < 4.5 * sigma / 2
    for column in range(4):
        assert abs(np.corrcoef(up[1:, column], up[:-1, column])[0, 1]) < 4.5 * sigma


# --- int8


ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 2**63 - 1), step=st.integers(0, 2**63 - 1))
def test_int8_is_within_a_scale_and_a_stored_row_stays_itself(rows: Floats, seed: int, step: int) -> None:
    format_, slots = FORMATS["int8"], np.arange(len(rows))
    values, scales = format_.empty(*rows.shape)
    for way in ("stochastic", "nearest"):
        if way == "stochastic":
            format_.encode(values, scales, slots, slots, rows, seed, step)
        else:
            format_.encode_nearest(values, scales, slots, rows)
        read = decoded(format_, values, scales).astype(np.float64)
        # half a step where rounding is to the nearest; 127 · 2^-16 of a step is the scale's own rounding
        most = scales[:, None].astype(np.float64) * (1.0 if way == "stochastic" else 0.501)
        assert (abs(read - rows) <= most * (1 + 2.0**-9)).all()
        np.testing.assert_array_equal(read, values.astype(np.float64) * scales[:, None].astype(np.float64))  # exact
        largest = np.maximum(abs(rows.astype(np.float64)).max(1), 127 * 2.0**-126)
        np.testing.assert_allclose(scales, largest / 127, rtol=2.0**-15)
        again, again_scales = format_.empty(*rows.shape)
        format_.encode_nearest(again, again_scales, slots, read.astype(np.float32))
        assert (again.tobytes(), again_scales.tobytes()) == (values.tobytes(), scales.tobytes())
        format_.encode(again, again_scales, slots, slots, read.astype(np.float32), step, seed)
        assert (again.tobytes(), again_scales.tobytes()) == (values.tobytes(), scales.tobytes())


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, name=st.sampled_from(LOW), seed=st.integers(0, 2**63 - 1))
def test_rounding_keeps_signs_and_is_symmetric(rows: Floats, name: str, seed: int) -> None:
    one, other = stored(FORMATS[name], rows, seed), stored(FORMATS[name], -rows, seed)
    np.testing.assert_array_equal(one, -other)
    assert (one * np.sign(rows) >= 0).all()


def test_int8_of_many_random_rows_comes_back_from_a_snapshot() -> None:
    format_, draw = FORMATS["int8"], np.random.default_rng(8)
    rows = draw.standard_normal((50_000, 4)).astype(np.float32) * np.exp(draw.uniform(-80, 80, (50_000, 1)))
    slots = np.arange(len(rows))
    values, scales = format_.empty(*rows.shape)
    format_.encode(values, scales, slots, slots, rows.astype(np.float32), 1, 2)
    again, again_scales = format_.empty(*rows.shape)
    format_.encode_nearest(again, again_scales, slots, decoded(format_, values, scales))
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(again_scales, scales)
