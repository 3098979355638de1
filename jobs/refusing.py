"""Keeps secrets out of what Hydra saves: a configuration that holds one is refused before anything is written."""

import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from recsys.errors import ConfigError
from recsys.streams.security import refuse_secrets


class RefuseSecrets(Callback):
    """Ends a job whose ``kafka.security`` holds a secret: one line and exit status 2.

    By SystemExit: Hydra makes a warning of any other error, and goes on.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Before the folder of a run is made."""
        self._refuse(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Before the folder of a sweep is made: of the parts that its runs share."""
        self._refuse(config)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Before a run of a sweep begins."""
        self._refuse(config)

    def _refuse(self, config: DictConfig) -> None:
        try:
            refuse_secrets({**_given(config), **_typed(config)})
        except ConfigError as error:
            print(f"{config.hydra.job.name}: kafka.{error}", file=sys.stderr)
            sys.exit(2)


def _given(config: DictConfig) -> dict[Any, Any]:
    """What is set, interpolations as they are written."""
    security = OmegaConf.select(config, "kafka.security")
    return dict(OmegaConf.to_container(security, resolve=False)) if isinstance(security, DictConfig) else {}  # type: ignore[arg-type]


def _typed(config: DictConfig) -> dict[str, str]:
    """What a sweep goes through: it is in no configuration yet."""
    overrides = [override.partition("=") for override in config.hydra.overrides.task]
    return {key.rpartition(".")[2]: value for key, _, value in overrides if ".security." in key}
