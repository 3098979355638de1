"""Models: plain torch modules that take pooled embeddings, never ids.

A model is one file: a frozen dataclass that validates its fields, and the ``nn.Module`` that names it as
``Config``. One line in ``MODELS`` makes it known to YAML:

>>> config = build_config({"kind": "deepfm", "hidden_sizes": [64, 32]})
>>> config.hidden_sizes, config.needs_first_order
((64, 32), True)
>>> MODELS[config.kind].__name__
'DeepFM'
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from recsys.errors import unknown
from recsys.models.dcnv2 import DCNv2
from recsys.models.deepfm import DeepFM

MODELS: dict[str, type] = {
    "deepfm": DeepFM,
    "dcnv2": DCNv2,
}


def build_config(fields: Mapping[str, Any]) -> Any:
    """The config of the model that ``fields["kind"]`` names, validated.

    Raises ConfigError for an unknown kind or field, listing the known ones, and for a value that can not be.

    >>> build_config({"kind": "deepfn"})
    Traceback (most recent call last):
    recsys.errors.ConfigError: unknown model kind 'deepfn'; known: deepfm, dcnv2
    """
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in MODELS:
        raise unknown("model kind", kind, MODELS)
    model: Any = MODELS[kind]
    what = f"field of model {kind}"
    known = [field.name for field in dataclasses.fields(model.Config)]
    for name in fields:
        if name not in known:
            raise unknown(what, name, known)
    return model.Config(**fields)
