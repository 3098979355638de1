"""The dense part in 16 bits learns as well as in 32; predictions and parameters are in 32 whatever it learned in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_epochs import board, file, trainer_of  # noqa: F401

from recsys.errors import ConfigError
from recsys.models.computing import Computing
from recsys.training.fit import evaluate
from recsys.training.trainer import Trainer

BF16 = Computing(precision="bf16")


def learned(path: Path, computing: Computing) -> Trainer:
    """After eight epochs."""
    trainer = trainer_of()
    trainer.recommender.compute(computing)
    for epoch in range(8):
        for _ in trainer.steps(file(path).batches(50, seed=[0, epoch])):
            pass
    return trainer


def test_it_learns_as_well(board: Path) -> None:  # noqa: F811
    whole, halved = (learned(board, computing) for computing in (Computing(), BF16))
    expected, found = (evaluate(trainer, file(board)) for trainer in (whole, halved))
    assert expected["auc"] > 0.65
    assert found["auc"] == pytest.approx(expected["auc"], abs=0.02)
    assert found["logloss"] == pytest.approx(expected["logloss"], abs=0.02)
    rows, others = whole.store.snapshot().groups["dense"].rows_UW, halved.store.snapshot().groups["dense"].rows_UW
    assert rows.dtype == others.dtype == np.float32 and not np.array_equal(rows, others)


def test_multiplications_are_in_16_bits_in_training_alone(board: Path) -> None:  # noqa: F811
    trainer, seen = trainer_of(), []
    trainer.recommender.compute(BF16)
    (layer, *_) = [module for module in trainer.recommender.modules() if isinstance(module, torch.nn.Linear)]
    layer.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    batch = next(file(board).batches(50))
    scores_B = trainer.predict(batch)
    trainer.step(batch)
    assert seen == [torch.float32, torch.bfloat16]
    np.testing.assert_array_equal(scores_B, trainer_of().predict(batch))


def test_lower_rates_keep_the_precision() -> None:
    trainer = trainer_of()
    trainer.recommender.compute(BF16)
    trainer.slow_down(0.1)
    assert trainer.recommender.computing == BF16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="device=cuda: torch finds no GPU"):
        Computing(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_learns_the_same(board: Path) -> None:  # noqa: F811
    here, there = (evaluate(learned(board, Computing(device=device)), file(board)) for device in ("cpu", "cuda"))
    assert there["auc"] == pytest.approx(here["auc"], abs=0.02)
