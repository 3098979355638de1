"""Search for good options by short runs of jobs.train: ``python -m jobs.tune 'train=["model=deepfm"]'``."""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import composed, job, shown
from jobs.sections import Text
from recsys.errors import ConfigError
from recsys.features.declarations import DataSet
from recsys.fields import AtLeast, NotEmpty, build
from recsys.training.space import Span

_NEEDS = ("optuna", "pandas", "tensorboardX")  # Ray Tune's own needs among them
Count = Annotated[int, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class RayAddress:
    """``ray``: a cluster to join."""

    address: Text | None


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """What is searched, and how."""

    data: DataSet
    train: tuple[Text, ...]
    space: Annotated[Mapping[str, Span], NotEmpty()]
    trials: Count
    at_once: Count
    grace_epochs: Count
    reduction_factor: Annotated[int, AtLeast(2)]
    seed: Annotated[int, AtLeast(0)]
    resume: Path | None
    ray: RayAddress

    def __post_init__(self) -> None:
        for name, span in self.space.items():
            span.check(f"space.{name}")


@dataclass(frozen=True)
class Told:
    """What decides on what a trial finds: a search goes on with the same."""

    data: str
    train: list[str]
    space: dict[str, Any]


@job("tune")
def main(config: dict[str, Any], folder: Path) -> None:
    """Run the trials that are missing; say which was the best, and the command that trains so."""
    settings = build(TuneSettings, config, "")
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"jobs.tune needs {', '.join(missing)}; run: pip install 'recsys[tune]'")

    from recsys.runtime.tuning import Search, tune_runs

    folder.mkdir(parents=True, exist_ok=True)
    _check_told(folder, Told(settings.data.name, list(settings.train), config["space"]))
    search = Search(
        trials=settings.trials,
        at_once=settings.at_once,
        grace_epochs=settings.grace_epochs,
        reduction_factor=settings.reduction_factor,
        seed=settings.seed,
    )
    told = {**composed("train", list(settings.train)), "data": config["data"]}
    best, *others = tune_runs(told, settings.space, search, folder, settings.ray.address)
    options = " ".join(f"{name}={value}" for name, value in best["parameters"].items())
    print(f"best of {1 + len(others)} trials: {abs(best['best']):.4f}, {shown(folder / best['trial'])}")
    print(f"python -m jobs.train data={settings.data.name} {' '.join(settings.train)} {options}")


def _check_told(folder: Path, told: Told) -> None:
    """Note what the search was told; ConfigError where it was told otherwise before."""
    path, said = folder / "search.json", json.loads(json.dumps(vars(told)))
    if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != said:
        name = next(name for name in said if said[name] != before.get(name))
        raise ConfigError(f"resume={folder}: {name} was {before.get(name)!r}; give what it was, or begin a new search")
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
