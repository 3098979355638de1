"""Examples lost or duplicated on their way, counted by request id and without the pipeline that carried them.

Shape suffixes: N impressions of the prepared data set, M trained examples.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.datasets.prepared import Prepared
from recsys.datasets.replay import first_request_ids
from recsys.errors import DataError


class Audit(NamedTuple):
    """``lost``: impressions never trained on; ``duplicated``: occurrences beyond each one's first."""

    lost: int
    duplicated: int


def audit(
    prepared: Prepared,
    trained_request_ids: Iterable[str] | pa.Array | pa.ChunkedArray,
    limit: int | None = None,
) -> Audit:
    """Compare what was trained on with the impressions file itself; ``limit`` is that of the replay.

    Every impression should come out as one example, liked or not, however often it was recorded. DataError where a
    request id is null, or is not among the (first ``limit``) impressions of the data set.
    """
    published = first_request_ids(prepared, limit).unique()
    trained = _as_strings(trained_request_ids)
    position_M = pc.index_in(trained, value_set=published)
    if position_M.null_count:
        strangers = trained.filter(pc.is_null(position_M))
        first = "" if limit is None else f"first {limit:,} "
        message = (
            f"{len(strangers):,} of {len(trained):,} trained ids are not request ids of the {first}"
            f"impressions in {prepared.folder}, {strangers[0].as_py()!r} first; audit the data set replayed"
        )
        raise DataError(message)
    count_N = np.bincount(position_M.to_numpy(), minlength=len(published))
    return Audit(lost=int((count_N == 0).sum()), duplicated=int(np.maximum(count_N - 1, 0).sum()))


def _as_strings(request_ids: Iterable[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(request_ids, pa.ChunkedArray):
        request_ids = request_ids.combine_chunks()
    if isinstance(request_ids, pa.Array):
        return request_ids.cast(pa.string())
    return pa.array(list(request_ids), pa.string())
