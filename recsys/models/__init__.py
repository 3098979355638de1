"""Models: plain torch modules that take pooled embeddings, never ids.

A model is one file: a frozen ``ModelConfig`` whose annotations say what its fields may be, and the ``nn.Module`` that
names it as ``Config`` and is built as ``Model(config, inputs, generator=…)``. One line in ``MODELS`` makes it known to
YAML:

>>> config = build_config({"kind": "deepfm", "hidden_sizes": [64, 32]})
>>> config.hidden_sizes, config.needs_first_order
((64, 32), True)
>>> MODELS[config.kind].__name__
'DeepFM'

What passes between the recommender and a model (``inputs.py``):

- ``forward(embeddings_BFD, first_order_BF, numbers_BM)`` gives logits (B,): embeddings in the order of the declared
  features, bags pooled.
- ``config.needs_first_order`` asks for a value of width 1 per feature, from a table beside each; else ``(B, 0)`` comes.
- ``config.row_dim(inputs)`` asks for rows of another width than ``table.embedding_dim``: FFM's F - 1 vectors an id,
  FwFM's two, LR's none.
- ``config.needs_bag_vectors`` asks for bags before they are pooled, a fourth argument: DIN.

A float32 buffer of a model (batch normalisation's statistics) goes where its parameters go, in a row group of its own;
a model's other tensors follow from its config.
"""

from collections.abc import Mapping
from typing import Any

from recsys.fields import build, choose
from recsys.models.afm import AFM
from recsys.models.autoint import AutoInt
from recsys.models.dcn import DCN
from recsys.models.dcnv2 import DCNv2
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.dlrm import DLRM
from recsys.models.dnn import DNN
from recsys.models.eulernet import EulerNet
from recsys.models.ffm import FFM
from recsys.models.fibinet import FiBiNET
from recsys.models.finalmlp import FinalMLP
from recsys.models.fm import FM
from recsys.models.fwfm import FwFM
from recsys.models.gdcn import GDCN
from recsys.models.ipnn import IPNN
from recsys.models.lr import LR
from recsys.models.masknet import MaskNet
from recsys.models.nfm import NFM
from recsys.models.wide_deep import WideDeep
from recsys.models.xdeepfm import XDeepFM

MODELS: dict[str, type] = {
    "lr": LR,
    "fm": FM,
    "ffm": FFM,
    "fwfm": FwFM,
    "afm": AFM,
    "nfm": NFM,
    "dnn": DNN,
    "ipnn": IPNN,
    "wide_deep": WideDeep,
    "deepfm": DeepFM,
    "dcn": DCN,
    "dcnv2": DCNv2,
    "xdeepfm": XDeepFM,
    "autoint": AutoInt,
    "fibinet": FiBiNET,
    "dlrm": DLRM,
    "masknet": MaskNet,
    "finalmlp": FinalMLP,
    "gdcn": GDCN,
    "eulernet": EulerNet,
    "din": DIN,
}


def build_config(fields: Mapping[str, Any], where: str = "model") -> Any:
    """The config of the model that ``fields["kind"]`` names, each field checked.

    Raises ConfigError for an unknown kind or field, listing the known ones, and for a value that can not be; it names
    the field by its full key, which begins with ``where``.

    >>> build_config({"kind": "deepfn"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    recsys.errors.ConfigError: unknown model.kind 'deepfn'; known: lr, fm, ffm, ...
    """
    return build(MODELS[choose(where, fields, MODELS)].Config, fields, where)  # type: ignore[attr-defined]
