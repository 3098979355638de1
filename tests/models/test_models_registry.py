"""Every model in MODELS builds from YAML fields alone, and says so when it can not."""

import dataclasses

import pytest

from recsys.errors import ConfigError
from recsys.models import MODELS, build_config


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_builds_its_own_config(kind: str) -> None:
    config = build_config({"kind": kind})
    assert config.kind == kind
    assert type(config) is MODELS[kind].Config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kind = "other"


def test_fields_reach_the_config_and_are_left_alone() -> None:
    fields = {"kind": "dcnv2", "hidden_sizes": [8, 4], "structure": "stacked"}
    config = build_config(fields)
    assert (config.hidden_sizes, config.structure) == ((8, 4), "stacked")
    assert fields == {"kind": "dcnv2", "hidden_sizes": [8, 4], "structure": "stacked"}


@pytest.mark.parametrize("fields", [{}, {"kind": "dcnv3"}, {"kind": ["deepfm"]}, {"kind": None}])
def test_unknown_kind_lists_the_known_ones(fields: dict) -> None:
    with pytest.raises(ConfigError, match=r"^unknown model\.kind .*; known: lr, fm, ffm, fwfm, .*, din$"):
        build_config(fields)


def test_unknown_field_lists_the_known_ones() -> None:
    message = "unknown field 'model.hidden_units'; known: kind, hidden_sizes, dropout, batch_norm"
    with pytest.raises(ConfigError, match=message):
        build_config({"kind": "deepfm", "hidden_units": [8]})
