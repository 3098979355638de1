"""How large each table may be, where a budget says how large all of them are.

A budget is in bytes of the served form, everything counted; a table's one number (rows, a rank, a width) follows by
trying: nothing has to be inverted, and what is counted is what is built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recsys.errors import ConfigError


@dataclass(frozen=True)
class Sized:
    """A table whose size is open: ``bytes_at`` a size of 1 … ``most`` are never fewer than at a smaller one.

    ``full_bytes``: of a row of float32 for each id, what its share of a budget goes by.
    """

    name: str
    full_bytes: int
    most: int
    bytes_at: Callable[[int], int]

    def largest_within(self, num_bytes: float) -> int:
        """The largest size that takes no more bytes; 1 where none does."""
        size = step = 1
        while size < self.most and self.bytes_at(min(self.most, size + step)) <= num_bytes:
            size = min(self.most, size + step)
            step *= 2
        while step:
            if size + step <= self.most and self.bytes_at(size + step) <= num_bytes:
                size += step
            step //= 2
        return size


def share_out(tables: Sequence[Sized], num_bytes: float, asked: str) -> dict[str, int]:
    """Sizes by table: each its part of ``num_bytes``, as the full tables are to each other, or the least it can be.

    What a small table leaves over goes on to the larger ones. ConfigError, naming what was ``asked`` and the smallest
    budget there can be, where even the least of each is more.

    >>> rows = [Sized(name, full, most=full // 8, bytes_at=lambda n: 8 * n) for name, full in (("a", 800), ("b", 24))]
    >>> share_out(rows, 412, "compression=2")
    {'b': 1, 'a': 50}
    """
    least = {table.name: table.bytes_at(1) for table in tables}
    smallest, full = sum(least.values()), sum(table.full_bytes for table in tables)
    if num_bytes < smallest:
        raise ConfigError(
            f"{asked} allows {int(num_bytes):,} bytes, and these tables take {smallest:,} at least; give "
            f"budget={smallest} or more (compression={max(1.0, int(100 * full / smallest) / 100):g} or less), or "
            "another kind"
        )
    sizes: dict[str, int] = {}
    for table in sorted(tables, key=lambda table: table.full_bytes):
        smallest -= least[table.name]
        share = min(num_bytes * table.full_bytes / max(1, full), num_bytes - smallest)
        sizes[table.name] = table.largest_within(share)
        num_bytes -= table.bytes_at(sizes[table.name])
        full -= table.full_bytes
    return sizes
