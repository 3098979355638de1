"""What ``jobs.train`` learns from: recorded events, joined and shared out by time, or plain examples as prepared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from recsys.features.state import FeatureState
from recsys.runtime.sections import TrainConfig
from recsys.tabular.batches import ExampleFile
from recsys.tabular.prepared import PreparedExamples
from recsys.training.archive import read_archive
from recsys.training.fit import Examples, Joined, JoinedExamples
from recsys.training.recorded import join_prepared


@dataclass(frozen=True)
class Parts:
    """Examples to learn from, to choose by and to judge by; and what a checkpoint tells of them."""

    train: Examples
    valid: Examples
    test: Examples
    features: dict[str, Any]
    about: dict[str, Any]
    seen: pa.Table | None = None  # joined examples that were learned: whom an online run would know

    @property
    def num_examples(self) -> int:
        """All of them."""
        return self.train.num_examples + self.valid.num_examples + self.test.num_examples


def parts_of(settings: TrainConfig, prepared: PreparedExamples | None, folder: Path, console: Console) -> Parts:
    """The parts of the data set that is told; events are joined, what is set aside left in ``folder``."""
    return _joined_parts(settings, folder, console) if prepared is None else _plain_parts(settings, prepared)


def _plain_parts(settings: TrainConfig, prepared: PreparedExamples) -> Parts:
    assert settings.data.examples is not None
    train, valid, test = (
        ExampleFile(prepared.file(split), prepared.features, group=settings.data.examples.group)
        for split in ("train", "valid", "test")
    )
    about = {**about_of(settings), "time_ms": 0, **prepared.manifest.about}
    return Parts(train, valid, test, FeatureState(settings.join.keep_items).to_json(), about)


def _joined_parts(settings: TrainConfig, folder: Path, console: Console) -> Parts:
    recorded = recorded_examples(settings, folder, console)
    tables = settings.split.cut(recorded.examples)
    train, valid, test = (JoinedExamples(table, settings.data.features) for table in tables)
    about = {**about_of(settings), "time_ms": recorded.time_ms}
    return Parts(train, valid, test, recorded.features.to_json(), about, seen=tables[0])


def about_of(settings: TrainConfig) -> dict[str, Any]:
    """What a checkpoint says of its run, and a run that goes on must say too."""
    return {
        "data": settings.data.name,
        "source": settings.source.kind,
        "seed": settings.seed,
        "max_examples": settings.batch.max_examples,
    }


def recorded_examples(settings: TrainConfig, folder: Path, console: Console) -> Joined:
    """The joined examples: of recorded events, or those that an online run has learned."""
    if settings.source.folder is None:
        return _join(settings, folder, console)
    with console.status(f"reading {settings.source.folder}"):
        examples = read_archive(settings.source.folder, settings.data.features).slice(0, settings.replay.limit)
    time_ms = max(examples.column("emitted_ms").to_pylist())
    return Joined(examples, FeatureState(settings.join.keep_items), time_ms)


def _join(settings: TrainConfig, folder: Path, console: Console) -> Joined:
    with console.status(f"joining the events of {settings.data.name}"):
        return join_prepared(
            settings.data, settings.join, settings.source.num_partitions, settings.replay.limit, folder
        )
