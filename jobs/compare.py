"""Compare tables at equal bytes, a run of jobs.train or jobs.retrieve each: ``python -m jobs.compare data=frappe``."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jobs.launch import composed, job, shown
from jobs.sections import Text
from recsys.datasets.interaction_files import InteractionFiles
from recsys.features.declarations import DataSet
from recsys.fields import AtLeast, NotEmpty, build

if TYPE_CHECKING:
    from recsys.runtime.comparing import Run
    from recsys.training.comparison import Line

FULL = "full"
Seed = Annotated[int, AtLeast(0)]
Compression = Annotated[float, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class RayAddress:
    """``ray``: a cluster to join."""

    address: Text | None


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is compared. ``tables`` are names of conf/table with overrides after them; None: of every kind.

    Where there are ``retrievers``, these are compared, over ``interactions``, and not ``models`` over ``data``.
    """

    data: DataSet
    interactions: InteractionFiles
    models: Annotated[tuple[Text, ...], NotEmpty()]
    retrievers: tuple[Text, ...]
    tables: Annotated[tuple[Text, ...], NotEmpty()] | None
    compressions: Annotated[tuple[Compression, ...], NotEmpty()]
    seeds: Annotated[tuple[Seed, ...], NotEmpty()]
    front_seeds: tuple[Seed, ...]
    train: tuple[Text, ...]
    retrieve: tuple[Text, ...]
    overrides: Mapping[str, tuple[Text, ...]]
    parallel: Annotated[int, AtLeast(1)]
    ray: RayAddress
    folder: Path
    results: Path

    @property
    def told(self) -> tuple[str, ...]:
        """What all runs are told."""
        return self.retrieve if self.retrievers else self.train

    @property
    def data_name(self) -> str:
        """What is learned from."""
        return self.interactions.name if self.retrievers else self.data.name


@dataclass(frozen=True)
class Asked:
    """One run, in the words of the command."""

    model: str
    table: str
    compression: float | None
    seed: int


@job("compare")
def main(config: dict[str, Any], folder: Path) -> None:
    """Run what is not there yet; then more seeds of the front; write the page of everything in the results."""
    settings = build(CompareSettings, config, "")
    command = _command()

    from rich.console import Console

    from recsys.runtime.comparing import compare
    from recsys.training.comparison_page import write_page

    console = Console(highlight=False, soft_wrap=True, markup=False)

    def run(asked: Iterable[Asked]) -> "list[Line]":
        return compare(
            [_run(settings, config, command, each) for each in asked],
            folder=settings.folder,
            results=settings.results,
            parallel=settings.parallel,
            ray_address=settings.ray.address,
            say=console.print,
        )

    lines = run(asked_of(settings, settings.seeds))
    if settings.front_seeds:
        lines = run(_of_front(settings, lines))
    for path in write_page(settings.results.with_suffix(".md"), lines):
        console.print(f"wrote {shown(path)}")


def asked_of(settings: CompareSettings, seeds: Iterable[int]) -> Iterator[Asked]:
    """All runs, a seed of everything before the next, a size of all tables before the next."""
    tables = settings.tables or kinds()
    for seed in seeds:
        for model in settings.retrievers or settings.models:
            for table in tables:
                if table.split()[0] == FULL:
                    yield Asked(model, table, None, seed)
            for compression in settings.compressions:
                for table in tables:
                    if table.split()[0] != FULL:
                        yield Asked(model, table, compression, seed)


def kinds() -> list[str]:
    """Every kind of table that can be told a size: those that stages leave have that of their map of ids."""
    from recsys.tables import ID_MAPS, TABLES

    return [kind for kind, (table, _) in TABLES.items() if table.stages or kind not in ID_MAPS]


def _of_front(settings: CompareSettings, lines: "Iterable[Line]") -> Iterator[Asked]:
    """The ``front_seeds`` of what is on the front of this command's data, models and training."""
    from recsys.training.comparison import pareto_front, points_of

    asked = {(each.model, each.table, each.compression) for each in asked_of(settings, settings.seeds)}
    for model in settings.retrievers or settings.models:
        section = settings.data_name, model, " ".join(settings.told)
        points = points_of(
            line for line in lines if line.section == section and (model, line.table, line.compression) in asked
        )
        for seed in settings.front_seeds:
            for point in pareto_front(points):
                yield Asked(model, point.table, point.compression, seed)


def _run(settings: CompareSettings, config: Mapping[str, Any], command: str, asked: Asked) -> "Run":
    """The run that is asked for: its configuration is what its job would compose, of the data that is named here."""
    from recsys.runtime.comparing import planned

    job, model, data = ("retrieve", "retriever", "interactions") if settings.retrievers else ("train", "model", "data")
    table, *own = asked.table.split()
    besides = settings.overrides.get(table, ())
    overrides = [f"{model}={asked.model}", f"table={table}", f"seed={asked.seed}", *settings.told, *besides, *own]
    if asked.compression is not None:
        overrides += [f"++table.compression={asked.compression:g}"]
    return planned(
        {**composed(job, overrides), data: config[data]},
        command=command,
        data=settings.data_name,
        model=asked.model,
        train=" ".join(settings.told),
        table=asked.table,
        overrides=" ".join(besides),
        compression=asked.compression,
        seed=asked.seed,
    )


def _command() -> str:
    """The command as it was typed, for the page."""
    import shlex

    from hydra.core.hydra_config import HydraConfig

    return shlex.join(["python", "-m", "jobs.compare", *HydraConfig.get().overrides.task])


if __name__ == "__main__":
    main()
