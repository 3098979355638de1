"""A job's configuration as the job sees it."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parent.parent / "conf"


def composed(job: str, *overrides: str) -> dict[str, Any]:
    """``conf/<job>.yaml`` with overrides, as plain values."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = OmegaConf.to_container(compose(job, list(overrides)), resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]
