"""What is exported scores as the trainer does, of every kind of table, and is refused where it was altered."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from served_films import HOUR_MS, TABLES, Films, films
from table_kinds import OF_KNOWN_IDS

from recsys.errors import ConfigError, DataError
from recsys.features.state import Id
from recsys.rows.tensor_file import map_tensors
from recsys.serving import Ranker
from recsys.serving.exported import Exported
from recsys.training.export import export_run

WITHIN = {"float32": 1e-6, "float16": 2e-3, "int8": 2e-2}


def exported(trained: Films, folder: Path, row_format: str = "float32", program: bool = False) -> Path:
    export_run(
        folder,
        "run-1",
        blueprint=trained.blueprint,
        store=trained.trainer.store,
        features=[trained.state],
        time_ms=trained.time_ms,
        row_format=row_format,
        with_program=program,
    )
    return folder


def assert_scores(trained: Films, folder: Path, within: float) -> None:
    """Of users and items known and not, at two times."""
    ranker = Ranker.load(folder)
    known_ids_only = trained.blueprint.table["kind"] in OF_KNOWN_IDS
    strangers: list[Id] = [50] if known_ids_only else ["nobody", 10**15]
    for user in [*trained.users[:3], *strangers]:
        for time_ms in (trained.time_ms + 20_000, trained.time_ms + 5 * HOUR_MS):
            ranking = ranker.rank(user, [*trained.items, *strangers], {"time_ms": time_ms}, k=100)
            expected = trained.expected_scores(user, ranking.items, time_ms)
            np.testing.assert_allclose(ranking.scores, expected, rtol=0, atol=within)


@pytest.mark.parametrize("table", TABLES)
def test_scores_are_the_trainers(table: str, tmp_path: Path) -> None:
    trained = films(table, "deepfm", strings=table not in OF_KNOWN_IDS)
    assert_scores(trained, exported(trained, tmp_path / "export"), WITHIN["float32"])


@pytest.mark.parametrize("row_format", WITHIN)
def test_rows_in_few_bits(row_format: str, tmp_path: Path) -> None:
    trained = films("collisionless", "dcnv2", strings=True)
    folder = exported(trained, tmp_path / "export", row_format)
    assert_scores(trained, folder, WITHIN[row_format])
    (name,) = [about["file"] for name, about in manifest_of(folder)["groups"].items() if name == "item"]
    assert load_file(folder / name)["row"].dtype == np.dtype(row_format)


def test_batch_normalisation_goes_along(tmp_path: Path) -> None:
    trained = films("unified", "normalised")
    assert_scores(trained, exported(trained, tmp_path / "export"), WITHIN["float32"])


def test_the_program_gives_the_models_logits(tmp_path: Path) -> None:
    """What another runtime would load. We do not: this archive we wrote ourselves."""
    trained = films("full", "normalised")
    folder = exported(trained, tmp_path / "export", program=True)
    assert manifest_of(folder)["no_program"] is None
    program = torch.export.load(folder / "dense.pt2").module()
    model, draw = Exported(folder).current()[0].recommender.model, torch.Generator().manual_seed(0)
    for num_examples in (2, 7):
        given = [torch.randn(num_examples, *shape, generator=draw) for shape in ((7, 4), (7,), (4,))]
        torch.testing.assert_close(program(*given), model(*given))


def test_it_ranks_all_items_but_those_liked(tmp_path: Path) -> None:
    trained = films("collisionless", strings=True)
    ranker = Ranker.load(exported(trained, tmp_path / "export"))
    liked = set(trained.state.history(2).liked(trained.time_ms))
    ranking = ranker.rank(2, k=100)
    assert liked and {*ranking.items} == {*trained.items} - liked
    assert ranking.titles == [f"Film {item}" for item in ranking.items]
    assert ranking.versions.run == "run-1" and ranking.versions.time_ms == trained.time_ms


def manifest_of(folder: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / "export.json").read_text())  # type: ignore[no-any-return]


def test_what_was_altered_is_refused(tmp_path: Path) -> None:
    trained = films("collisionless")
    folder = exported(trained, tmp_path / "export")
    with pytest.raises(ConfigError, match="is there already"):
        exported(trained, folder)
    rows = folder / manifest_of(folder)["groups"]["item"]["file"]
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)
    with pytest.raises(DataError, match=f"{rows.name} is not as it was written"):
        Exported(folder)
    rows.unlink()
    with pytest.raises(DataError, match=f"{rows.name} is missing"):
        Exported(folder)
    with pytest.raises(DataError, match="is no export; make one"):
        Exported(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickled", (2**60).to_bytes(8, "little") + b"{}", b"\2" + b"\0" * 7])
def test_what_is_no_safetensors_file_is_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    path.write_bytes(data)
    with pytest.raises(DataError, match="is no safetensors file"):
        map_tensors(path)
