"""Bucket maps: packed codes give back what was put in, files and JSON keep them, ids without a bucket are hashed."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import hashing
from recsys.errors import ConfigError, DataError
from recsys.tables.bucket_files import read_map, write_map
from recsys.tables.bucket_map import BucketMap, Buckets, PackedCodes


def small_map(**changes: object) -> BucketMap:
    tables = {"user": Buckets.of(np.array([2, 0, 1, 1, -1]), 3), "item": Buckets.of(np.arange(300) % 7, 9, num_own=2)}
    fields = {"method": "graphhash", "data": "planted", "fingerprint": "f", "seed": 3, "gamma": 2.5, "modularity": 0.5}
    return BucketMap(**{**fields, "tables": tables, **changes})  # type: ignore[arg-type]


@given(st.integers(1, 32).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1)))))
def test_codes_come_back_in_any_order(drawn: tuple[int, list[int]]) -> None:
    bits, codes = drawn
    packed = PackedCodes.of(np.array(codes, np.int64), bits)
    places = np.arange(len(codes))[::-1]
    assert packed.at(places).tolist() == codes[::-1]
    assert packed.nbytes == -(-len(codes) * bits // 8) + 8


def test_a_code_takes_as_many_bits_as_the_buckets_need() -> None:
    # 5,652 buckets and "none": 13 bits an id
    assert Buckets.of(np.zeros(29_858, np.int64), 5652).nbytes == -(-29_858 * 13 // 8) + 8
    assert Buckets.of(np.zeros(8, np.int64), 1).nbytes == 1 + 8
    assert Buckets.of(np.array([3, -1]), 4).buckets(np.array([0, 1])).tolist() == [3, -1]  # 4 needs a third bit


def test_ids_without_a_bucket_are_hashed_into_shared_rows() -> None:
    buckets = Buckets.of(np.array([0, 1, 2, 3, -1]), num_buckets=4, num_own=2)
    ids = np.array([0, 3, 4, 5, -1, 2**62, -(2**63)])
    keys = buckets.keys(ids, salt=5)
    assert keys[:2].tolist() == [0, 3]
    assert keys[2:].tolist() == (2 + hashing.hash_to_range(ids[2:], 2, 5)).tolist()
    all_own = Buckets.of(np.array([0, 1]), num_buckets=2, num_own=2)
    assert all_own.keys(np.array([9, 1]), salt=5).tolist() == [hashing.hash_to_range(np.array([9]), 2, 5)[0], 1]


def test_json_and_files_keep_a_map(tmp_path: Path) -> None:
    made = small_map()
    write_map(tmp_path / "maps" / "a.safetensors", made)
    for read in (
        BucketMap.from_json(json.loads(json.dumps(made.to_json()))),
        read_map(tmp_path / "maps" / "a.safetensors", "planted"),
    ):
        assert read.about() == made.about()
        assert read.to_json() == made.to_json()
        assert (read.nbytes, read.num_buckets) == (made.nbytes, 12)
        assert read.tables["user"].buckets(np.arange(6)).tolist() == [2, 0, 1, 1, -1, -1]
        assert (read.tables["item"].num_own, read.tables["item"].num_ids) == (2, 300)


def test_mistakes_with_maps_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ConfigError, match=r"table\.map=.*a\.safetensors: there is no such file; make it: python -m"):
        read_map(path)
    write_map(path, small_map())
    with pytest.raises(ConfigError, match="was made for data set 'planted', not 'gowalla'"):
        read_map(path, "gowalla")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is no bucket map .a bucket map has changed since it was made"):
        read_map(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is no bucket map"):
        read_map(path)
    with pytest.raises(ConfigError, match="unknown format of a bucket map 2; known: 1"):
        BucketMap.from_json({**small_map().to_json(), "format": 2})
    with pytest.raises(DataError, match=r"bucket 7 is outside \[0, 7\)"):
        Buckets.of(np.array([7]), 7)
