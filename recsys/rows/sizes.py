"""What one row takes, as ``Rows`` keeps it and as it is served: plain arithmetic, for who has no numba.

>>> from recsys.rows.optimizers import RowWiseAdagrad
>>> item = RowGroup(name="item", width=16, optimizer=RowWiseAdagrad(learning_rate=0.1), row_format="int8")
>>> row_bytes(item), state_bytes(item)
(20, 4)
"""

from recsys.rows.store import RowGroup

KEY_BYTES = 8  # of a key that does not follow from where its row lies
_INDEX_BYTES = 19  # of a key in the collisionless index: 15 to 23, by how full its buckets are
_NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int16": 2, "lsq8": 1}
_SCALE_BYTES = {"int8": 4, "int16": 4, "lsq8": 3}  # a learned step is a number of the row, of four bytes


def row_bytes(group: RowGroup) -> int:
    """Bytes of a row in its format, its scale included."""
    return group.width * _NUMBER_BYTES[group.row_format] + _SCALE_BYTES.get(group.row_format, 0)


def state_bytes(group: RowGroup) -> int:
    """Bytes of the optimizer's state of a row, and of its own step where it has one."""
    lazy = 4 if group.optimizer.lazy != "never" else 0
    return 4 * sum(group.optimizer.state_widths(group.width).values()) + lazy


def bookkeeping_bytes(group: RowGroup) -> int:
    """Bytes of a row beyond the row and its optimizer's state, in training: its last step, its key or flag, its uses or
    importance.

    Of an array exact; of a group that grows, the mean of what the index takes.
    """
    kept = 0 if group.eviction is None else {"lru": 0, "lfu": 2, "importance": 4}[group.eviction.kind]
    return 4 + kept + (1 if group.num_rows is not None else _INDEX_BYTES)


def most_rows(group: RowGroup) -> int | None:
    """How many rows a group can hold; None for any number."""
    if group.num_rows is not None:
        return group.num_rows
    return None if group.eviction is None else group.eviction.max_rows
