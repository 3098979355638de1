"""The door of every job: Hydra composes, the job runs, and a user's mistake is one line and exit status 2.

Ctrl-C and SIGTERM raise KeyboardInterrupt in the job; where the job lets it pass, one line and status 130 or 143.
All that is slow to import is imported behind the door, Hydra too: help and mistakes come at once.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from recsys.errors import ConfigError, RecsysError

CONF = Path(__file__).resolve().parent.parent / "conf"
Run = Callable[[dict[str, Any], Path], None]


def job(name: str) -> Callable[[Run], Callable[[], None]]:
    """Make ``run(config, folder)`` the job of ``conf/<name>.yaml``: plain values, and the run's output folder."""

    def decorate(run: Run) -> Callable[[], None]:
        def launch() -> None:
            signal.signal(signal.SIGTERM, _interrupt)
            try:
                status = _launch(name, run)
            except KeyboardInterrupt as interrupt:
                status = 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
                print(f"{name}: interrupted", file=sys.stderr)
            finally:
                # What is left is Python's own end: another Ctrl-C ends that too, without a word.
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
            sys.exit(status)

        return launch

    return decorate


def shown(path: Path) -> str:
    """A path as a person would type it."""
    return os.path.relpath(path)


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python says of an error that nobody caught: of Ctrl-C before the door is open, or as it closes, a line."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{Path(sys.argv[0]).stem.removeprefix('recsys-')}: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _end


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _launch(name: str, run: Run) -> int:
    """Hand the job to Hydra; its exit status."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    begun = False

    def task(config: DictConfig) -> None:
        nonlocal begun
        begun = True
        _quieten()
        try:
            run(_plain(config), Path(HydraConfig.get().runtime.output_dir))
        except RecsysError as error:  # here, because Hydra announces what it catches
            sys.exit(_one_line(name, error))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
                raise
            sys.exit(_one_line(name, ConfigError("there is not enough memory; make tables, layers or batches smaller")))

    task.__module__ = f"jobs.{name}"  # what Hydra calls the job by, however it was started
    OmegaConf.register_new_resolver("about", lambda: run.__globals__["__doc__"].replace("``", "`"), replace=True)
    OmegaConf.register_new_resolver("run_folder", lambda resumed, new: resumed or new, replace=True)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand errors to us instead of printing them
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error, HydraException) else None
        return _one_line(name, error, cause)
    except OSError as error:  # the folder of the run can not be made
        if begun or error.filename is None:
            raise
        return _one_line(name, ConfigError(f"{error.filename}: {error.strerror}; choose another hydra.run.dir="))
    return 0


def _plain(config: Any) -> dict[str, Any]:
    """The configuration as plain values."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is not given; set {error.full_key}=…") from error
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]


def composed(job: str, overrides: list[str]) -> dict[str, Any]:
    """``conf/<job>.yaml`` with overrides, as plain values: what a job tells another that it runs."""
    from hydra import compose

    return _plain(compose(job, overrides))


def _one_line(name: str, *errors: BaseException | None) -> int:
    """Say what was wrong on one line; 2 is the exit status for a user's mistake."""
    text = " ".join(" ".join(str(error).split()) for error in errors if error is not None)
    print(f"{name}: {text}", file=sys.stderr)
    return 2


def _quieten() -> None:
    """Libraries that report every connection are kept to their warnings."""
    import logging

    for library in ("kafka", "matplotlib", "fontTools"):
        logging.getLogger(library).setLevel(logging.WARNING)
