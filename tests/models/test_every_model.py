"""What holds of every model: its gradients are right, its seed fixes it, and it is built of what its config says."""

from typing import Any

import numpy as np
import pytest
import torch
from model_inputs import batch_for, built, inputs_of, randomized, seeded

from recsys.models import MODELS, build_config

SMALL: dict[str, dict[str, Any]] = {
    "lr": {},
    "fm": {},
    "ffm": {},
    "fwfm": {},
    "afm": {"attention_size": 3},
    "nfm": {"hidden_sizes": [3]},
    "dnn": {"hidden_sizes": [3]},
    "ipnn": {"hidden_sizes": [3]},
    "wide_deep": {"hidden_sizes": [3]},
    "deepfm": {"hidden_sizes": [3]},
    "dcn": {"hidden_sizes": [3], "num_cross_layers": 2},
    "dcnv2": {"hidden_sizes": [3], "num_cross_layers": 2, "rank": 2, "num_experts": 2},
    "xdeepfm": {"hidden_sizes": [3], "cin_sizes": [4, 2], "split_half": True},
    "autoint": {"num_layers": 2, "attention_size": 4, "layer_norm": True, "scale": True, "hidden_sizes": [3]},
    "fibinet": {"hidden_sizes": [3], "bilinear": "interaction"},
    "dlrm": {"hidden_sizes": [3], "bottom_hidden_sizes": [2]},
    "masknet": {"hidden_sizes": [3], "num_blocks": 2, "block_size": 3, "embedding_layer_norm": True},
    "finalmlp": {
        "first_hidden_sizes": [4],
        "second_hidden_sizes": [2],
        "gate_hidden_sizes": [3],
        "first_context": ["user"],
        "num_heads": 2,
    },
    "gdcn": {"hidden_sizes": [3], "num_cross_layers": 2},
    "eulernet": {"order_sizes": [3, 2], "layer_norm": True},
    "din": {"attention_hidden_sizes": [3], "hidden_sizes": [3], "softmax": True},
}


def test_every_kind_is_tried() -> None:
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_equal_finite_differences(kind: str) -> None:
    """In directions drawn at random, of everything that comes and of every parameter."""
    inputs = inputs_of(3, 2, 1)
    model = built(kind, inputs, **SMALL[kind]).double()
    batch = batch_for(model, inputs, 3, torch.float64)
    tensors = [x.requires_grad_() for x in batch[:3]]
    if len(batch) == 4:
        tensors += [bag.vectors_ND.requires_grad_() for bag in batch[3].values()]
    assert torch.autograd.gradcheck(lambda *_: model(*batch), tuple(tensors), fast_mode=True)
    assert torch.autograd.gradcheck(lambda *_: model(*batch), tuple(model.parameters()), fast_mode=True)


@pytest.mark.parametrize("kind", SMALL)
def test_the_seed_alone_fixes_the_weights(kind: str) -> None:
    inputs, state = inputs_of(), torch.random.get_rng_state()
    config = build_config({"kind": kind, **SMALL[kind]})
    one, same, other = (MODELS[kind](config, inputs, generator=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    if kind not in ("lr", "fm", "ffm"):  # they begin with zeros
        assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", SMALL)
def test_examples_do_not_see_each_other_once_trained(kind: str) -> None:
    """Scores of a batch are those of its examples one by one, numbers or none."""
    for num_numbers in (0, 2):
        inputs = inputs_of(num_numbers=num_numbers)
        model = built(kind, inputs, **SMALL[kind]).eval()
        embeddings_BFD, first_BF, numbers_BM, *bags = batch_for(model, inputs)
        alone = []
        for b in range(6):
            one = (slice(b, b + 1),)
            its = [{name: bag._replace(vectors_ND=bag.vectors_ND[bag.examples_N == b],
                                       examples_N=bag.examples_N[bag.examples_N == b] * 0)
                    for name, bag in bags[0].items()}] if bags else []  # fmt: skip
            alone.append(model(embeddings_BFD[one], first_BF[one], numbers_BM[one], *its).item())
        together_B = model(embeddings_BFD, first_BF, numbers_BM, *bags).detach().numpy()
        np.testing.assert_allclose(together_B, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in SMALL if "batch_norm" in build_config({"kind": kind}).__dict__])
def test_batch_norm_and_dropout_are_where_the_config_turns_them_on(kind: str) -> None:
    plain, inputs = dict(SMALL[kind]), inputs_of()
    plain["first_hidden_sizes" if kind == "finalmlp" else "hidden_sizes"] = [32]  # some unit is on
    dropout = {"first_dropout": 0.5} if kind == "finalmlp" else {"dropout": 0.5}
    changed = built(kind, inputs, **{**plain, **dropout, "batch_norm": True})
    names = {type(module).__name__ for module in changed.modules()}
    assert {"BatchNorm", "Dropout"} <= names
    assert "BatchNorm" not in {type(module).__name__ for module in built(kind, inputs, **plain).modules()}
    batch = batch_for(changed, inputs)
    assert not torch.equal(changed(*batch), changed(*batch))
    assert torch.equal(randomized(changed).eval()(*batch), changed(*batch))
