"""Models: plain torch modules that take pooled embeddings, never ids.

A model is one file: a frozen dataclass whose annotations say what its fields may be, and the ``nn.Module`` that
names it as ``Config``. One line in ``MODELS`` makes it known to YAML:

>>> config = build_config({"kind": "deepfm", "hidden_sizes": [64, 32]})
>>> config.hidden_sizes, config.needs_first_order
((64, 32), True)
>>> MODELS[config.kind].__name__
'DeepFM'
"""

from collections.abc import Mapping
from typing import Any

from recsys.fields import build, choose
from recsys.models.dcnv2 import DCNv2
from recsys.models.deepfm import DeepFM

MODELS: dict[str, type] = {
    "deepfm": DeepFM,
    "dcnv2": DCNv2,
}


def build_config(fields: Mapping[str, Any], where: str = "model") -> Any:
    """The config of the model that ``fields["kind"]`` names, each field checked.

    Raises ConfigError for an unknown kind or field, listing the known ones, and for a value that can not be; it names
    the field by its full key, which begins with ``where``.

    >>> build_config({"kind": "deepfn"})
    Traceback (most recent call last):
    recsys.errors.ConfigError: unknown model.kind 'deepfn'; known: deepfm, dcnv2
    """
    return build(MODELS[choose(where, fields, MODELS)].Config, fields, where)  # type: ignore[attr-defined]
