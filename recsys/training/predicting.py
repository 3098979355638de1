"""Predictions of a file of examples: written as they are made, and judged together."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.models.recommender import Recommender
from recsys.rows.store import RowReader
from recsys.training.fit import Examples
from recsys.training.judging import Judged


def predict_file(
    recommender: Recommender, rows: RowReader, examples: Examples, path: Path, *, batch_size: int
) -> dict[str, float]:
    """Write labels and probabilities, in the examples' order, as Parquet; what they are worth.

    The recommender has its dense parameters. DataError for labels other than 0 and 1, or numbers that are not finite.
    """
    judged = Judged()
    fields = {"label": pa.float32(), "probability": pa.float32()}
    with pq.ParquetWriter(path, pa.schema(list(fields.items()))) as writer:
        for batch in examples.batches(batch_size):
            probabilities_B = recommender.predict(batch, rows, dense=False)
            judged.add(batch, probabilities_B)
            columns = {"label": batch.labels_B, "probability": probabilities_B}
            writer.write_table(pa.table({name: pa.array(columns[name], kind) for name, kind in fields.items()}))
    return judged.figures()
