"""A prepared set of plain examples: three Parquet files, the ids' raw values, and a manifest that vouches for them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.errors import DataError
from recsys.features.declarations import DataSet, Feature, features_to_json

FORMAT = 1
MANIFEST = "examples.json"
LABEL = "label"
VOCABULARY = "vocabulary"  # the folder of the ids' raw values


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleManifest:
    """What a prepared folder holds. ``declared`` is what it was prepared from: another declaration is another folder.

    ``learned`` are the figures of each feature's column, ``bytes`` the size of each file.
    """

    format: int
    name: str
    source: str
    declared: Mapping[str, Any]
    num_examples: Mapping[str, int]
    num_positives: Mapping[str, int]
    learned: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]
    bytes: Mapping[str, int]

    def to_json(self) -> str:
        """The text of ``examples.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedExamples:
    """An intact folder, and its features with the sizes that were found."""

    folder: Path
    manifest: ExampleManifest
    features: tuple[Feature, ...]

    def file(self, split: str) -> Path:
        """The Parquet file of ``train``, ``valid`` or ``test``: a column a feature, and the label."""
        return self.folder / f"{split}.parquet"


def declared(data: DataSet) -> dict[str, Any]:
    """What a prepared folder depends on, as JSON has it."""
    assert data.examples is not None
    said = {"features": features_to_json(data.features), "examples": dataclasses.asdict(data.examples)}
    plain: dict[str, Any] = json.loads(json.dumps(said, default=str))
    return plain


def open_examples(data: DataSet) -> PreparedExamples:
    """Open the prepared folder of a data set; DataError where it is absent, damaged, or was prepared otherwise."""
    manifest = read_manifest(data.folder)
    remedy = f"run: python -m jobs.prepare data={data.name}"
    if manifest is None:
        raise DataError(f"{data.folder / MANIFEST} is missing: no prepared examples there; {remedy}")
    if manifest.declared != declared(data):
        raise DataError(f"{data.folder} was prepared from other declarations of data={data.name}; {remedy}")
    if damaged := damages(data.folder, manifest):
        raise DataError(f"{damaged}; {remedy}")
    return PreparedExamples(folder=data.folder, manifest=manifest, features=sized(data.features, manifest.learned))


def sized(features: Sequence[Feature], learned: Mapping[str, Mapping[str, Any]]) -> tuple[Feature, ...]:
    """Features with the number of ids that were found, where none was declared."""
    return tuple(
        dataclasses.replace(feature, num_embeddings=num_ids)
        if feature.size is None and (num_ids := learned.get(feature.name, {}).get("num_ids")) is not None
        else feature
        for feature in features
    )


def read_manifest(folder: Path) -> ExampleManifest | None:
    """The manifest of a folder, None where there is none; DataError where it can not be read."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']!r}, this version reads {FORMAT}")
        return ExampleManifest(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} can not be read ({str(error).splitlines()[0]}); delete {folder}") from error


def damages(folder: Path, manifest: ExampleManifest) -> str | None:
    """What is not as the manifest says, in words."""
    for name, num_bytes in manifest.bytes.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != num_bytes:
            return f"{path} has {path.stat().st_size:,} bytes, its manifest says {num_bytes:,}"
    return None
