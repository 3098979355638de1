"""The door of every job: Hydra composes, the job runs, and a user's mistake is one line and exit status 2."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from recsys.errors import ConfigError, RecsysError

CONF = Path(__file__).resolve().parent.parent / "conf"
Run = Callable[[dict[str, Any], Path], None]


def job(name: str) -> Callable[[Run], Callable[[], None]]:
    """Make ``run(config, folder)`` the job of ``conf/<name>.yaml``: plain values, and the run's output folder."""

    def decorate(run: Run) -> Callable[[], None]:
        @functools.wraps(run)
        def task(config: DictConfig) -> None:
            _quieten()
            try:
                values = _plain(config)
                run(values, Path(HydraConfig.get().runtime.output_dir))
            except RecsysError as error:  # here, because Hydra announces what it catches
                sys.exit(_one_line(name, error))

        del task.__wrapped__  # Hydra would otherwise look through to the inner function's signature
        main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)

        def launch() -> None:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand errors to us instead of printing them
            try:
                main()
            except (HydraException, OmegaConfBaseException) as error:
                sys.exit(_one_line(name, error))
            except KeyboardInterrupt:
                print(f"{name}: interrupted", file=sys.stderr)
                sys.exit(130)

        return launch

    return decorate


def shown(path: Path) -> str:
    """A path as a person would type it."""
    return os.path.relpath(path)


def _plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values."""
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is not given; set {error.full_key}=…") from error
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]


def _one_line(name: str, error: Exception) -> int:
    """Say what was wrong on one line; 2 is the exit status for a user's mistake."""
    parts = [str(error)]
    if isinstance(error, HydraException) and error.__cause__ is not None:
        parts.append(str(error.__cause__))
    text = " ".join(" ".join(part.split()) for part in parts)
    print(f"{name}: {text}", file=sys.stderr)
    return 2


def _quieten() -> None:
    """Libraries that report every connection are kept to their warnings."""
    for library in ("kafka", "matplotlib", "fontTools"):
        logging.getLogger(library).setLevel(logging.WARNING)
