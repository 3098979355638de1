"""The dense part of a recommender as a ``torch.export`` archive, for runtimes that are not this one.

The program takes what the tables give (``embeddings_BFD``, ``first_order_BF``, ``numbers_BM``; see ``models.inputs``)
and returns logits (B,), for any B.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from recsys.batches.batch import Bag, Batch
from recsys.models.recommender import Recommender

_NUM_EXAMPLES = 4


def write_program(path: Path, recommender: Recommender) -> str | None:
    """Write the archive of a recommender in evaluation mode; None, or why there is none."""
    given = _given(recommender)
    if not all(isinstance(one, Tensor) for one in given):
        return "the model takes bags before they are pooled, of any lengths; it is scored by Ranker.load"
    batch = torch.export.Dim("batch", min=2)
    try:
        program = torch.export.export(recommender.model, given, dynamic_shapes=tuple({0: batch} for _ in given))
    except TorchDynamoException as error:
        return f"torch.export can not trace the model ({str(error).splitlines()[0]})"
    torch.export.save(program, path)
    return None


def _given(recommender: Recommender) -> tuple[Any, ...]:
    """What the model is given for a batch of which nothing is known."""
    nothing = Bag.of_lists([[]] * _NUM_EXAMPLES)
    sparse = [feature.name for feature in recommender.features if feature.kind != "number"]
    numbers_BM = np.zeros((_NUM_EXAMPLES, len(recommender.features) - len(sparse)), np.float32)
    planned = recommender.plan(Batch(dict.fromkeys(sparse, nothing), numbers_BM))
    groups = recommender.embeddings.groups
    rows = {name: groups[name].absent_rows(keys_N) for name, keys_N in planned.addressed.keys.items()}
    caught: list[tuple[Any, ...]] = []

    def catch(model: nn.Module, given: tuple[Any, ...]) -> None:
        caught.append(given)

    hook = recommender.model.register_forward_pre_hook(catch)
    try:
        with torch.no_grad():
            recommender(planned, rows)
    finally:
        hook.remove()
    return caught[0]
