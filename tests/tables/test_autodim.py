"""AutoDim's weighed widths, and what is chosen of them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import SGD
from recsys.tables import build_table, plan_tables
from recsys.tables.autodim import AutoDim
from recsys.tables.mde import MDE
from recsys.training.autodim_stages import chosen_widths

ITEM = Feature(name="item", kind="id", source="item.id", num_embeddings=500)


def planned(kind: str = "autodim", dim: int = 8, **fields: Any) -> Any:
    described = {"kind": kind, "embedding_dim": dim, **fields}
    (config,) = plan_tables(described, [ITEM], optimizer=SGD(learning_rate=1.0), seed=3)
    return config


def weighed(**fields: Any) -> AutoDim:
    table = build_table(planned(**fields))
    assert isinstance(table, AutoDim)
    return table


def with_logits(table: AutoDim, rows_ND: torch.Tensor, logits_C: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"item": rows_ND[:, None], "item.logits": logits_C.expand(len(rows_ND), -1)[:, None]}


def test_a_vector_is_the_weighed_sum_of_projected_beginnings() -> None:
    table = weighed()
    assert table.widths == (2, 4, 8)
    assert table.address("item", torch.tensor([4, 7]))["item.logits"].tolist() == [[0], [0]]
    logits_C = torch.tensor([0.3, -1.0, 0.5])
    rows_ND = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.softmax(logits_C, 0)
    by_hand = weights[0] * rows_ND[:, :2] @ table.projections[0] + weights[1] * rows_ND[:, :4] @ table.projections[1]
    found = table.compose("item", torch.arange(5), with_logits(table, rows_ND, logits_C))
    torch.testing.assert_close(found, by_hand + weights[2] * rows_ND)
    assert list(table.probabilities(logits_C).values()) == pytest.approx(weights.tolist())


def test_at_the_start_every_candidate_is_as_large() -> None:
    table = weighed(dim=16)
    rows_ND = torch.rand(4000, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for logits_C in torch.eye(4) * 60:
        found = table.compose("item", torch.arange(4000), with_logits(table, rows_ND, logits_C))
        assert found.std().item() == pytest.approx(3**-0.5, rel=0.35)


def test_noise_is_gumbels_and_follows_from_the_step() -> None:
    """The argmax of logits with Gumbel noise is drawn by the softmax of the logits."""
    table, logits_C = weighed(), torch.tensor([0.0, 1.0, -1.0])

    def weights(seed: int) -> list[float]:
        table.begin_step(seed)
        return table._weights_C(logits_C).tolist()

    drawn = np.array([weights(seed) for seed in range(3000)])
    assert drawn.std(axis=0).min() > 0.05 and weights(7) == drawn[7].tolist()
    shares = np.bincount(drawn.argmax(axis=1), minlength=3) / 3000
    assert shares == pytest.approx(list(table.probabilities(logits_C).values()), abs=0.03)
    torch.testing.assert_close(table.eval()._weights_C(logits_C), torch.softmax(logits_C, 0))


likely = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda ps: dict(zip((2, 4, 8), ps, strict=True))),
    min_size=1,
)


@given(likely, st.integers(0, 120))
def test_chosen_widths_have_room_and_are_the_likeliest_where_there_is(
    probabilities: dict[str, dict[int, float]], num_bytes: int
) -> None:
    sizes = {name: {width: 3 * width for width in (2, 4, 8)} for name in probabilities}
    if num_bytes < 6 * len(sizes):
        with pytest.raises(ConfigError, match=rf"the narrowest candidates take {6 * len(sizes)}; give budget="):
            chosen_widths(probabilities, sizes, num_bytes, f"budget={num_bytes}")
        return
    widths = chosen_widths(probabilities, sizes, num_bytes, f"budget={num_bytes}")
    assert sum(3 * width for width in widths.values()) <= num_bytes
    best = {name: max(each, key=lambda width: each[width]) for name, each in probabilities.items()}
    assert all(widths[name] <= best[name] for name in best)
    if sum(3 * width for width in best.values()) <= num_bytes:
        assert widths == best


def test_widths_that_are_given_are_those_of_the_rows() -> None:
    table = build_table(planned("mde", widths={"item": 4}))
    assert isinstance(table, MDE) and table.groups[0].width == 4
    assert build_table(planned("mde", widths={"other": 4})).groups[0].width == planned("mde").row_width
    with pytest.raises(ConfigError, match="widths of 'item' is 0"):
        planned("mde", widths={"item": 0})
    with pytest.raises(ConfigError, match="least_width 9 must be at most embedding_dim 8"):
        planned(least_width=9)
