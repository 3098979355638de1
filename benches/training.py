"""Training in epochs, beside plain torch and TorchRec: rows a second through the public API.

    python -m benches.training [--quick] [--folder runs/bench]

Two shapes: Frappe's (10 ids of 5,389, batches of 4,096, MLP 400-400-400) and Criteo's (26 ids of 10 million, 13
numbers), ids popular as 1 / rank. All train the same network on the same batches, with Adam, on one thread. Contenders
take turns by epoch of some batches, so what slows the machine slows them all:

- the bare MLP: its inputs are there, no lookup at all: what is left of it is the price of embeddings
- torch with sparse gradients: ``nn.Embedding(sparse=True)`` and SparseAdam
- TorchRec's EmbeddingBagCollection, fused by fbgemm, where it is installed: with row-wise Adagrad, which is less work
  than Adam, for it has none on a CPU
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional

from benches.neighbours import Neighbours
from benches.result import Result, Target, against, beside, left_out, write_results
from benches.running import Told, command_line, run
from recsys.batches.batch import LabelledBatch
from recsys.features.declarations import Feature
from recsys.hashing import seed_of
from recsys.models.layers import MLP, linear
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.tabular.batches import ExampleFile
from recsys.training.trainer import Trainer

_QUIET_CORES = 0.2
_LEARNING_RATE = 0.001
Epoch = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is trained: features, ids of all of them together, and how much at a time."""

    name: str
    num_features: int
    num_numbers: int
    num_ids: int
    embedding_dim: int
    hidden_sizes: tuple[int, ...]
    batch_size: int = 4096
    batches: int = 6  # of an epoch
    rounds: int = 7

    @property
    def ids_each(self) -> int:
        """Ids of a feature."""
        return self.num_ids // self.num_features

    @property
    def num_inputs(self) -> int:
        """Of the network."""
        return self.num_features * self.embedding_dim + self.num_numbers


SHAPES = (
    Shape(
        name="Frappe's", num_features=10, num_numbers=0, num_ids=5_390, embedding_dim=10, hidden_sizes=(400, 400, 400)
    ),
    Shape(
        name="Criteo's, 10 M ids",
        num_features=26,
        num_numbers=13,
        num_ids=10_000_000,
        embedding_dim=16,
        hidden_sizes=(400, 400, 400),
        batches=3,
    ),
)
QUICK = (
    Shape(
        name="small",
        num_features=3,
        num_numbers=1,
        num_ids=300,
        embedding_dim=4,
        hidden_sizes=(8,),
        batch_size=64,
        batches=2,
        rounds=2,
    ),
)


def measure(shapes: Sequence[Shape], folder: Path, told: Told) -> list[Result]:
    """Every shape, and the files of what was found."""
    torch.set_num_threads(1)
    neighbours, results = Neighbours(), list[Result]()
    for shape in shapes:
        told(f"training in {shape.name} shape, {shape.rounds} rounds of {shape.batches} batches")
        with tempfile.TemporaryDirectory() as place:
            results += _measure_shape(shape, Path(place))
    used = neighbours.cores_used()
    about = {"threads": 1, "others used cores": used}
    results = beside(results, used, _QUIET_CORES)
    if used is not None and used > _QUIET_CORES:
        told(f"other programs used {used:.1f} cores meanwhile: rates are too low, and ratios rough")
    write_results(folder, "training", "Training in epochs", results, about, plots=[])
    return results


def _measure_shape(shape: Shape, folder: Path) -> list[Result]:
    file = _write_examples(shape, folder)
    batches = list(file.batches(shape.batch_size, seed=[0, 0]))
    ours = _ours(shape, file)
    peers = {"bare MLP": _bare(shape, batches), "torch, SparseAdam": _sparse_adam(shape, batches)}
    torchrec = _torchrec(shape, batches)
    if torchrec is not None:
        peers["TorchRec EBC"] = torchrec
    rates = _rates(shape, {"ours": ours, **peers})
    targets = {"bare MLP": Target(value=0.9 if shape.num_ids < 1_000_000 else 0.8)}
    measure = f"training, {shape.name}"
    results = [
        against(measure, "k rows/s", rates["ours"], name, rates[name], targets.get(name, Target(value=1.0)))
        for name in peers
    ]
    if torchrec is None:
        results.append(left_out(measure, "k rows/s", rates["ours"], "TorchRec EBC", "torchrec is not installed"))
    return results


def _rates(shape: Shape, contenders: dict[str, Epoch]) -> dict[str, np.ndarray]:
    """Thousand rows a second by round, the contenders one after the other in each; the first round is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for at in range(shape.rounds + 1):
        for name, epoch in contenders.items():
            started = time.perf_counter()
            epoch()
            if at:
                rates[name].append(shape.batches * shape.batch_size / (time.perf_counter() - started) / 1000)
    return {name: np.array(values) for name, values in rates.items()}


def _write_examples(shape: Shape, folder: Path) -> ExampleFile:
    """An epoch's examples, prepared: ids popular as 1 / rank."""
    draw, num = np.random.default_rng(0), shape.batches * shape.batch_size
    columns = {
        f"C{at}": np.minimum(shape.ids_each ** draw.random(num), shape.ids_each).astype(np.int64) - 1
        for at in range(shape.num_features)
    }
    numbers = {f"I{at}": draw.standard_normal(num, np.float32) for at in range(shape.num_numbers)}
    labels = draw.integers(0, 2, num).astype(np.float32)
    pq.write_table(pa.table({**columns, **numbers, "label": labels}), folder / "train.parquet")
    return ExampleFile(folder / "train.parquet", _features(shape))


def _features(shape: Shape) -> tuple[Feature, ...]:
    ids = [
        Feature(name=f"C{at}", kind="id", source=f"column.C{at}", num_embeddings=shape.ids_each)
        for at in range(shape.num_features)
    ]
    numbers = [Feature(name=f"I{at}", kind="number", source=f"column.I{at}") for at in range(shape.num_numbers)]
    return (*ids, *numbers)


# --- contenders: each call is an epoch


def _ours(shape: Shape, file: ExampleFile) -> Epoch:
    adam = {"kind": "adam", "learning_rate": _LEARNING_RATE}
    recommender = Recommender(
        Blueprint(
            features=_features(shape),
            table={"kind": "full", "embedding_dim": shape.embedding_dim},
            model={"kind": "dcnv2", "num_cross_layers": 1, "hidden_sizes": list(shape.hidden_sizes)},
            optimizer=adam,
            dense_optimizer=adam,
        )
    )
    recommender.model = _Network(shape)
    recommender.dense = type(recommender.dense)(recommender)
    trainer = Trainer(recommender, LocalRows(recommender.groups, threads=1))
    trainer.start()
    epochs = iter(range(1_000_000))

    def epoch() -> None:
        for _ in trainer.steps(file.batches(shape.batch_size, seed=[0, next(epochs)])):
            pass

    return epoch


class _Network(nn.Module):
    """The MLP that all contenders train, in the form of a model: first-order rows are not asked for."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mlp = MLP(shape.num_inputs, shape.hidden_sizes, generator=generator)
        self.output = linear(self.mlp.num_outputs, 1, generator=generator)

    def forward(self, embeddings_BFD: Tensor, first_order_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        return self.of(torch.cat([embeddings_BFD.flatten(start_dim=1), numbers_BM], dim=1))

    def of(self, inputs_BI: Tensor) -> Tensor:
        """Logits (B,) of the network's inputs."""
        logits_B: Tensor = self.output(self.mlp(inputs_BI)).squeeze(1)
        return logits_B


def _bare(shape: Shape, batches: Sequence[LabelledBatch]) -> Epoch:
    network = _Network(shape)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    inputs = [torch.randn(batch.num_examples, shape.num_inputs) for batch in batches]
    labels = [torch.from_numpy(batch.labels_B) for batch in batches]

    def epoch() -> None:
        for inputs_BI, labels_B in zip(inputs, labels, strict=True):
            loss = functional.binary_cross_entropy_with_logits(network.of(inputs_BI), labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def _sparse_adam(shape: Shape, batches: Sequence[LabelledBatch]) -> Epoch:
    network = _Network(shape)
    table = nn.Embedding(shape.ids_each * shape.num_features, shape.embedding_dim, sparse=True)
    dense = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    sparse = torch.optim.SparseAdam(table.parameters(), lr=_LEARNING_RATE)
    given = list(_stacked(shape, batches))

    def epoch() -> None:
        for ids_BF, numbers_BM, labels_B in given:
            embedded = table(ids_BF).flatten(start_dim=1)
            logits_B = network.of(torch.cat([embedded, numbers_BM], dim=1))
            loss = functional.binary_cross_entropy_with_logits(logits_B, labels_B)
            dense.zero_grad()
            sparse.zero_grad()
            loss.backward()
            dense.step()
            sparse.step()

    return epoch


def _stacked(shape: Shape, batches: Sequence[LabelledBatch]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids (B, F) of one table that holds all features, numbers, labels."""
    for batch in batches:
        ids_BF = np.stack(
            [batch.bags[f"C{at}"].ids_N + at * shape.ids_each for at in range(shape.num_features)], axis=1
        )
        yield torch.from_numpy(ids_BF), torch.from_numpy(batch.numbers_BM), torch.from_numpy(batch.labels_B)


def _torchrec(shape: Shape, batches: Sequence[LabelledBatch]) -> Epoch | None:
    """None where torchrec is not installed."""
    try:
        from benches.torchrec_training import TorchRecTables
    except ImportError:
        return None
    network = _Network(shape)
    tables = TorchRecTables(shape.num_features, shape.ids_each, shape.embedding_dim, learning_rate=_LEARNING_RATE)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    given = [
        (tables.features([batch.bags[f"C{at}"].ids_N for at in range(shape.num_features)]), batch) for batch in batches
    ]

    def epoch() -> None:
        for features, batch in given:
            inputs_BI = torch.cat([tables(features), torch.from_numpy(batch.numbers_BM)], dim=1)
            loss = functional.binary_cross_entropy_with_logits(network.of(inputs_BI), torch.from_numpy(batch.labels_B))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_line(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(seed_of(options.seed, "bench"))
    return run("Training in epochs", lambda told: measure(QUICK if options.quick else SHAPES, options.folder, told))


if __name__ == "__main__":
    sys.exit(main())
