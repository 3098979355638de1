"""The contenders of benches.training train the same network on the same examples."""

from pathlib import Path

import numpy as np

from benches.training import QUICK, _stacked, _write_examples


def test_contenders_see_the_same_examples(tmp_path: Path) -> None:
    """Ids of one table for all features, side by side, are those of the file; an epoch goes through all of them."""
    (shape,) = QUICK
    file = _write_examples(shape, tmp_path)
    batches = list(file.batches(shape.batch_size, seed=[0, 0]))
    assert file.num_examples == shape.batches * shape.batch_size == sum(batch.num_examples for batch in batches)
    for batch, (ids_BF, numbers_BM, labels_B) in zip(batches, _stacked(shape, batches), strict=True):
        for at in range(shape.num_features):
            own_B = ids_BF[:, at].numpy() - at * shape.ids_each
            np.testing.assert_array_equal(own_B, batch.bags[f"C{at}"].ids_N)
            assert own_B.min() >= 0 and own_B.max() < shape.ids_each
        assert numbers_BM.shape == (shape.batch_size, shape.num_numbers) and set(labels_B.tolist()) <= {0.0, 1.0}
