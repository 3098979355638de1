"""The ways to put ids into buckets, by name."""

from typing import Literal

Method = Literal["graphhash", "random", "hash", "frequency", "lsh"]
