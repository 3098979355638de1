"""BARS's runs on Frappe_x1: what each model was told there, and what it found (its leaderboard of November 2024).

What is told here is what differs from ``conf/experiment/bars_frappe.yaml``. Parameters that BARS lists are those of
``tests/models/test_parameter_counts.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MLP = {"hidden_sizes": [400, 400, 400], "batch_norm": True}
_NO_NORM = {"hidden_sizes": [400, 400, 400], "batch_norm": False}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One of BARS's models.

    ``model`` are fields of ours, ``weight_decay`` the L2 of embeddings and first-order weights. ``auc`` and ``logloss``
    are of the one run that BARS prints, ``mean`` and ``deviation`` of its five seeds' AUC where it ran them.
    """

    kind: str
    weight_decay: float
    auc: float
    logloss: float
    mean: float | None = None
    deviation: float | None = None
    patience: int = 2
    model: Mapping[str, Any] = field(default_factory=dict)

    def overrides(self) -> list[str]:
        """What jobs.train is told after ``experiment=bars_frappe``: the experiment's MLP goes where there is none."""
        absent = [f"~model.{name}" for name in ("hidden_sizes", "dropout", "batch_norm") if name not in self.model]
        fields = [f"++model.{name}={_hydra(value)}" for name, value in self.model.items()]
        decay = [f"optimizer.{rows}.weight_decay={self.weight_decay:g}" for rows in ("rows", "first_order")]
        return [f"model={self.kind}", *absent, *fields, *decay, f"fit.patience={self.patience}"]


def _hydra(value: Any) -> str:
    """A value as Hydra reads it.

    >>> _hydra([400, 400]), _hydra(True), _hydra(["user"])
    ('[400,400]', 'true', '[user]')
    """
    if isinstance(value, list):
        return f"[{','.join(_hydra(one) for one in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


RECIPES = {
    "DeepFM": Recipe(
        kind="deepfm", weight_decay=0.05, model={**_MLP, "dropout": 0.2},
        auc=0.984243, logloss=0.148174, mean=0.983947, deviation=0.000161,
    ),
    "DCNv2": Recipe(
        kind="dcnv2", weight_decay=0.05, model={**_MLP, "dropout": 0.4, "num_cross_layers": 4},
        auc=0.984478, logloss=0.149149, mean=0.983824, deviation=0.000435,
    ),
    "DNN": Recipe(
        kind="dnn", weight_decay=0.05, model={**_MLP, "dropout": 0.2},
        auc=0.983323, logloss=0.162229, mean=0.984045, deviation=0.000510,
    ),
    "FM": Recipe(kind="fm", weight_decay=5e-6, auc=0.967108, logloss=0.206515),
    "LR": Recipe(kind="lr", weight_decay=1e-5, auc=0.935584, logloss=0.307643),
    "DCN": Recipe(
        kind="dcn", weight_decay=0.05, model={**_MLP, "dropout": 0.2, "num_cross_layers": 3},
        auc=0.983907, logloss=0.152660, mean=0.983418, deviation=0.000312,
    ),
    "WideDeep": Recipe(
        kind="wide_deep", weight_decay=0.1, model={**_MLP, "dropout": 0.6},
        auc=0.984124, logloss=0.148974, mean=0.983073, deviation=0.000786,
    ),
    "xDeepFM": Recipe(
        kind="xdeepfm", weight_decay=0.1, model={**_MLP, "dropout": 0.2, "cin_sizes": [64]},
        auc=0.984507, logloss=0.146604, mean=0.984138, deviation=0.000372,
    ),
    "AutoInt+": Recipe(
        kind="autoint", weight_decay=0.1, auc=0.984812, logloss=0.149007,
        model={**_MLP, "dropout": 0.1, "num_layers": 5, "num_heads": 4, "attention_size": 128, "residual": True,
               "scale": True, "layer_norm": True},
    ),
    "FinalMLP": Recipe(
        kind="finalmlp", weight_decay=0.05, auc=0.986072, logloss=0.148415,
        model={"batch_norm": True, "first_hidden_sizes": [400], "first_dropout": 0.4, "second_hidden_sizes": [100],
               "second_dropout": 0.4, "gate_hidden_sizes": [400], "first_context": ["user"],
               "second_context": ["item"], "num_heads": 5},
    ),
    "MaskNet": Recipe(
        kind="masknet", weight_decay=0.1, auc=0.983683, logloss=0.169580,
        model={**_NO_NORM, "dropout": 0.1, "num_blocks": 3, "block_size": 50, "reduction_ratio": 2.0},
    ),
    "IPNN": Recipe(
        kind="ipnn", weight_decay=0.05, model={**_NO_NORM, "dropout": 0.3}, patience=3,
        auc=0.984122, logloss=0.154003,
    ),
    "DLRM": Recipe(
        kind="dlrm", weight_decay=0.1, model={**_MLP, "dropout": 0.4, "interaction": "cat"},
        auc=0.983995, logloss=0.144441,
    ),
    "FiBiNET": Recipe(
        kind="fibinet", weight_decay=0.05, model={**_MLP, "dropout": 0.3, "bilinear": "all", "reduction_ratio": 2.0},
        auc=0.983182, logloss=0.194074,
    ),
    "NFM": Recipe(
        kind="nfm", weight_decay=1e-4, model={**_NO_NORM, "dropout": 0.4}, auc=0.980409, logloss=0.205795
    ),
    "AutoInt": Recipe(
        kind="autoint", weight_decay=0.05, auc=0.983085, logloss=0.163684,
        model={"num_layers": 6, "num_heads": 4, "attention_size": 128, "residual": True, "scale": False},
    ),
    "FwFM": Recipe(kind="fwfm", weight_decay=5e-6, model={"linear": "id_vector"}, auc=0.977585, logloss=0.202971),
    "FFM": Recipe(kind="ffm", weight_decay=1e-6, auc=0.978620, logloss=0.186032),
    "AFM": Recipe(
        kind="afm", weight_decay=1e-5, model={"attention_size": 128, "attention_dropout": 0.1, "dropout": 0.1},
        auc=0.969733, logloss=0.226424,
    ),
    "CrossNet": Recipe(
        kind="dcn", weight_decay=1e-4, model={"hidden_sizes": [], "num_cross_layers": 6}, auc=0.959427, logloss=0.271483
    ),
    "CrossNetv2": Recipe(
        kind="dcnv2", weight_decay=1e-3, model={"structure": "cross", "num_cross_layers": 4},
        auc=0.972914, logloss=0.221563,
    ),
    "CIN": Recipe(
        kind="xdeepfm", weight_decay=5e-4, model={"hidden_sizes": [], "cin_sizes": [64, 64, 64]},
        auc=0.978241, logloss=0.235220,
    ),
}  # fmt: skip
