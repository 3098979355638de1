"""Parameter counts against those that BARS lists for Frappe_x1 and MovieLensLatest_x1 (FuxiCTR 1.x and 2.x).

Frappe: 10 features, 5,389 rows (5,379 ids of the training part and an unknown one a feature), width 10. MovieLens: 3
features, 90,239 rows, width 10. FuxiCTR 2 has a row of padding a feature besides: FinalMLP's runs count those.
"""

from typing import Any

import pytest
from model_inputs import inputs_of, seeded

from recsys.models import MODELS, build_config

WIDTH = 10
FRAPPE, MOVIELENS = (10, 5_389), (3, 90_239)  # features, rows
DEEP = {"hidden_sizes": [400, 400, 400], "batch_norm": True}
PLAIN = {"hidden_sizes": [400, 400, 400]}
FIRST_TOWER = 364_001  # 100 → 400 → 400 → 400 → 1 with batch normalisation, on Frappe


def count(kind: str, data: tuple[int, int], fields: dict[str, Any]) -> int:
    """Rows of the tables, as wide as the model asks, first-order rows, and the model's parameters."""
    num_features, num_rows = data
    inputs = inputs_of(num_features, WIDTH, 0)
    config = build_config({"kind": kind, **fields})
    model = MODELS[kind](config, inputs, generator=seeded(0))
    in_rows = num_rows * (config.row_dim(inputs) + config.needs_first_order)
    return in_rows + sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "data", "fields", "listed"),
    [
        ("lr", FRAPPE, {}, 5_390),
        ("lr", MOVIELENS, {}, 90_240),
        ("fm", FRAPPE, {}, 59_280),
        ("fm", MOVIELENS, {}, 992_630),
        ("ffm", FRAPPE, {}, 490_400),
        ("ffm", MOVIELENS, {}, 1_895_020),
        ("fwfm", FRAPPE, {"linear": "id_vector"}, 107_826),
        ("fwfm", MOVIELENS, {"linear": "id_vector"}, 1_804_784),
        ("afm", FRAPPE, {"attention_size": 128}, 60_826),
        ("afm", MOVIELENS, {"attention_size": 16}, 992_832),
        ("nfm", FRAPPE, PLAIN, 384_880),
        ("nfm", MOVIELENS, PLAIN, 1_318_230),
        ("ipnn", FRAPPE, PLAIN, 433_491),
        ("ipnn", MOVIELENS, PLAIN, 1_237_191),
        ("wide_deep", FRAPPE, DEEP, 423_280),
        ("wide_deep", MOVIELENS, DEEP, 1_328_630),
        ("deepfm", FRAPPE, DEEP, 423_280),
        ("deepfm", MOVIELENS, DEEP, 1_328_630),
        ("dcn", FRAPPE, {**DEEP, "num_cross_layers": 3}, 418_591),
        ("dcn", MOVIELENS, {**DEEP, "num_cross_layers": 4}, 1_238_661),
        ("dcn", FRAPPE, {"hidden_sizes": [], "num_cross_layers": 6}, 55_191),  # "CrossNet"
        ("dcn", MOVIELENS, {"hidden_sizes": [], "num_cross_layers": 7}, 902_841),
        ("dcnv2", FRAPPE, {**DEEP, "num_cross_layers": 4}, 458_391),
        ("dcnv2", MOVIELENS, {**DEEP, "num_cross_layers": 5}, 1_243_071),
        ("dcnv2", FRAPPE, {"structure": "cross", "num_cross_layers": 4}, 94_391),  # "CrossNetv2"
        ("dcnv2", MOVIELENS, {"structure": "cross", "num_cross_layers": 8}, 909_861),
        ("xdeepfm", FRAPPE, {**DEEP, "cin_sizes": [64]}, 429_809),
        ("xdeepfm", MOVIELENS, {**PLAIN, "cin_sizes": [64, 64, 64]}, 1_351_767),
        ("xdeepfm", FRAPPE, {"hidden_sizes": [], "cin_sizes": [64, 64, 64]}, 147_984),  # "CIN"
        ("xdeepfm", MOVIELENS, {"hidden_sizes": [], "cin_sizes": [32, 32, 32, 32]}, 1_002_390),
        ("autoint", FRAPPE, {"num_layers": 6, "num_heads": 4, "attention_size": 128}, 306_051),
        (
            "autoint",
            MOVIELENS,
            {"num_layers": 2, "num_heads": 4, "attention_size": 128, "layer_norm": True, "first_order": True},
            1_047_798,
        ),
        (
            "autoint",  # "AutoInt+"
            FRAPPE,
            {**DEEP, "num_layers": 5, "num_heads": 4, "attention_size": 128, "layer_norm": True},
            622_180,
        ),
        (
            "autoint",
            MOVIELENS,
            {**DEEP, "num_layers": 2, "num_heads": 4, "attention_size": 128, "layer_norm": True, "first_order": True},
            1_383_799,
        ),
        ("fibinet", FRAPPE, {**DEEP, "reduction_ratio": 2}, 743_480),
        ("fibinet", MOVIELENS, {**DEEP, "reduction_ratio": 0.3}, 1_340_790),
        ("dlrm", FRAPPE, {**DEEP, "interaction": "cat"}, 417_891),
        ("dlrm", MOVIELENS, {**DEEP, "interaction": "cat"}, 1_238_391),
        ("masknet", FRAPPE, {**PLAIN, "num_blocks": 3, "block_size": 50}, 571_691),
        ("masknet", MOVIELENS, {**PLAIN, "structure": "serial", "reduction_ratio": 4}, 2_624_541),
    ],
)
def test_counts_are_those_of_bars(kind: str, data: tuple[int, int], fields: dict[str, Any], listed: int) -> None:
    assert count(kind, data, fields) == listed


def test_bars_dnn_counts_two_networks() -> None:
    assert count("dnn", FRAPPE, DEEP) + FIRST_TOWER == 781_892


def test_bars_dlrm_without_numbers_is_a_dnn() -> None:
    assert count("dlrm", FRAPPE, {**DEEP, "interaction": "cat"}) == count("dnn", FRAPPE, DEEP) == 417_891


def test_bars_finalmlp_gives_its_gates_tables_of_their_own() -> None:
    """On Frappe a second table of users and items: what is left is 5,036 ids, two unknown rows and two of padding."""
    fields = {
        "first_hidden_sizes": [400],
        "second_hidden_sizes": [100],
        "batch_norm": True,
        "first_context": ["user"],
        "second_context": ["item"],
        "num_heads": 5,
    }
    padding = WIDTH * 10
    assert count("finalmlp", FRAPPE, fields) + padding + WIDTH * (5_036 + 4) == 253_392


def test_bars_finalmlp_without_context_is_ours() -> None:
    fields = {"second_hidden_sizes": [800], "batch_norm": True, "gate_hidden_sizes": [800], "num_heads": 10}
    padding = WIDTH * 3
    assert count("finalmlp", MOVIELENS, fields) + padding == 1_040_902
