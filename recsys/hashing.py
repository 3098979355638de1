"""Seeded 64-bit hashes that are the same in every process, on every machine, for ever.

Python's ``hash`` differs between processes; nothing here does. Everything that places an id (table rows, shards,
partitions, chunks of a unified table) or draws its initial value starts from these functions.

Shape suffixes: N values, W columns.
"""

import hashlib

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix64(values_N: npt.NDArray[np.int64], seed: int = 0) -> npt.NDArray[np.uint64]:
    """Mix int64 values into uniform uint64 (SplitMix64's finaliser, Steele et al. 2014; a bijection per seed).

    >>> mix64(np.array([0, 1]), seed=0).tolist()
    [16294208416658607535, 10451216379200822465]
    """
    with np.errstate(over="ignore"):
        z = values_N.view(np.uint64) + np.uint64(seed % 2**64) * _GOLDEN + _GOLDEN
        z = (z ^ (z >> _SHIFT_1)) * _MULTIPLY_1
        z = (z ^ (z >> _SHIFT_2)) * _MULTIPLY_2
    return z ^ (z >> _SHIFT_3)


def hash_to_range(values_N: npt.NDArray[np.int64], num_buckets: int, seed: int = 0) -> Keys:
    """Hash int64 values into ``[0, num_buckets)``.

    >>> hash_to_range(np.array([7, 8, 7]), num_buckets=10, seed=1).tolist()
    [4, 7, 4]
    """
    return (mix64(values_N, seed) % np.uint64(num_buckets)).astype(np.int64)


def fold(values_N: npt.NDArray[np.int64], num_ids: int, seed: int = 0) -> Keys:
    """Values of ``[0, num_ids)`` as they are, any others hashed into it.

    >>> fold(np.array([7, 9, 10**12, -1]), num_ids=10, seed=1).tolist()
    [7, 9, 8, 9]
    """
    outside_N = (values_N < 0) | (values_N >= num_ids)
    if not outside_N.any():
        return values_N
    return np.where(outside_N, hash_to_range(values_N, num_ids, seed), values_N)


def hash_string(text: str) -> int:
    """Turn a string into a signed 64-bit id (BLAKE2b, 8 bytes).

    Two of n distinct strings share an id with probability about n²/2⁶⁵: 2.7e-8 for a million ids,
    0.027 for a billion.

    >>> hash_string("user-7")
    -7390381631024868802
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def to_id(value: int | str) -> int:
    """An id as int64: integers are taken as they are, strings are hashed."""
    return value if isinstance(value, int) else hash_string(value)


def seed_of(*parts: int | str) -> int:
    """One seed out of names and numbers, so that renaming one table moves no other table's rows.

    >>> seed_of(0, "item", "init") == seed_of(0, "item", "init") != seed_of(1, "item", "init")
    True
    """
    return hash_string("\x1f".join(f"{type(part).__name__}:{part}" for part in parts)) & 0x7FFFFFFFFFFFFFFF


def uniform(keys_N: Keys, width: int, seed: int) -> Floats:
    """Uniform float32 numbers in [-1, 1) of shape (N, width): a function of (seed, key, column) and nothing else.

    Row r is the same whatever else is asked for beside it, in whatever order, on whatever shard.

    >>> a = uniform(np.array([3, 9]), width=2, seed=5); b = uniform(np.array([9]), width=2, seed=5)
    >>> bool((a[1] == b[0]).all()), a.dtype, a.shape
    (True, dtype('float32'), (2, 2))
    """
    base_N = mix64(keys_N, seed)
    with np.errstate(over="ignore"):
        mixed_NP = mix64((base_N[:, None] ^ column_hashes(width, seed)[None, :]).view(np.int64), seed)
    halves_NPH = np.stack([mixed_NP >> np.uint64(40), (mixed_NP >> np.uint64(16)) & np.uint64(0xFFFFFF)], axis=2)
    bits_NW = halves_NPH.reshape(len(keys_N), 2 * mixed_NP.shape[1])[:, :width]
    return (bits_NW.astype(np.float32) * np.float32(2.0**-23)) - np.float32(1)


def column_hashes(width: int, seed: int) -> npt.NDArray[np.uint64]:
    """What ``uniform`` mixes with the hash of a key, for each pair of columns: 64 bits make two numbers of 24."""
    return mix64(np.arange((width + 1) // 2, dtype=np.int64), seed ^ 0x5851F42D4C957F2D)


def id_text(id_: int | str) -> str:
    """An id as text that keeps 7 and "7" apart.

    >>> id_text(7), id_text("7"), id_of_text('"7')
    ('7', '"7', '7')
    """
    return f'"{id_}' if isinstance(id_, str) else str(id_)


def id_of_text(text: str) -> int | str:
    """The id that ``id_text`` wrote."""
    return text[1:] if text.startswith('"') else int(text)
