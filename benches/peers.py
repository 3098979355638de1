"""Who is measured: this project's store, and its peers behind the same few calls.

Each returns the seconds of one call, so that a peer in a process of its own can take part. Peers are used as their
authors would on a CPU, in the way that measured fastest.

Shape suffixes: N ids a call, R rows, W row width.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from benches.draws import Batch, consecutive, keys_of
from benches.probe import aligned_int64s
from recsys.hashing import Floats
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import RowWiseAdagrad
from recsys.rows.policies import FrequencyAdmission
from recsys.rows.store import RowGroup

GROUP = "item"
LEARNING_RATE, EPS = 0.05, 1e-8


def seconds_of(work: Callable[[], object]) -> float:
    """How long a call takes, on the wall's clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row_group(width: int) -> RowGroup:
    """The rows that are measured: row-wise Adagrad, no policy."""
    return RowGroup(name=GROUP, width=width, optimizer=RowWiseAdagrad(learning_rate=LEARNING_RATE, eps=EPS))


def guarded_row_group(width: int) -> RowGroup:
    """The rows whose bytes are counted: admission and expiry on.

    An id is pushed ADMITTED_AT times, then it has a row.
    """
    admission = FrequencyAdmission(occurrences=ADMITTED_AT, max_bytes=2**20)
    return replace(row_group(width), admission=admission, ttl_seconds=30 * 86_400.0)


ADMITTED_AT = 2


class Ours:
    """``LocalRows``, through its public calls."""

    name = "recsys"

    def __init__(self, group: RowGroup, gradients_NW: Floats, threads: int) -> None:
        self.store = LocalRows([group], threads=threads)
        self.gradients_NW = gradients_NW
        self._out_NW = aligned_floats(*gradients_NW.shape)

    def fill(self, num_rows: int) -> list[float]:
        """Insert rows 0, 1, …, a full batch of new ids a push; the seconds of each."""
        return [self.insert(batch) for batch in consecutive(0, num_rows, len(self.gradients_NW))]

    def insert(self, batch: Batch) -> float:
        """Seconds to push new ids."""
        return seconds_of(lambda: self.push(batch))

    def pull(self, batch: Batch) -> float:
        """Seconds to read rows into an array of the caller's."""
        return seconds_of(lambda: self.read(batch))

    def step(self, batch: Batch) -> float:
        """Seconds of a training step: read rows, then apply their gradients."""
        return self.pull(batch) + self.insert(batch)

    def read(self, batch: Batch) -> Floats:
        """The rows of a batch."""
        out = {GROUP: self._out_NW[: len(batch.keys_N)]}
        return self.store.pull({GROUP: batch.keys_N}, out)[GROUP]

    def push(self, batch: Batch) -> None:
        """Apply a gradient to each id; new ids get rows."""
        self.store.push({GROUP: (batch.keys_N, self.gradients_NW[: len(batch.keys_N)])}, event_time_ms=0)

    @property
    def extra_bytes_per_row(self) -> float:
        """Bytes held beyond rows and optimizer state, for each row."""
        group, num_rows = self.store.groups[GROUP], self.store.num_rows()[GROUP]
        row_bytes = 4 * (group.width + sum(group.optimizer.state_widths(group.width).values()))
        return self.store.nbytes / num_rows - row_bytes


class Gather:
    """``torch.index_select(out=)`` on a dense array: the limit of any table, for there is no key to find."""

    name = "torch.index_select"

    def __init__(self, num_rows: int, num_ids: int, width: int, *, huge_pages: bool = False) -> None:
        self.peer = f"{self.name}, huge pages" if huge_pages else self.name
        if huge_pages:
            self.rows_RW = torch.from_numpy(aligned_floats(num_rows, width))
            self.rows_RW.fill_(1)
        else:
            self.rows_RW = torch.ones(num_rows, width)
        self.out_NW = torch.from_numpy(aligned_floats(num_ids, width))

    def pull(self, batch: Batch) -> float:
        """Seconds to gather."""
        rows_N = torch.from_numpy(batch.rows_N)
        return seconds_of(lambda: torch.index_select(self.rows_RW, 0, rows_N, out=self.out_NW))


class Fbgemm:
    """fbgemm's table-batched embedding on the CPU: forward, backward and row-wise Adagrad fused.

    Bags of one id with sum pooling: four to five times as fast on a CPU as PoolingMode.NONE.
    """

    name = "fbgemm TBE"

    def __init__(self, num_rows: int, gradients_NW: Floats) -> None:
        with _imports_that_warn():
            from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
                ComputeDevice,
                EmbeddingLocation,
                OptimType,
                PoolingMode,
                SplitTableBatchedEmbeddingBagsCodegen,
            )

        num_ids, width = gradients_NW.shape
        self._gradients_NW = torch.from_numpy(gradients_NW)
        self._offsets = torch.arange(num_ids + 1)
        self._table = SplitTableBatchedEmbeddingBagsCodegen(
            [(num_rows, width, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=OptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=LEARNING_RATE,
            eps=EPS,
            pooling_mode=PoolingMode.SUM,
            device=torch.device("cpu"),
        )
        self._table.init_embedding_weights_uniform(-0.05, 0.05)  # memory never written reads faster than rows do

    @property
    def rows_RW(self) -> torch.Tensor:
        """The table itself, by row number."""
        rows_RW: torch.Tensor = self._table.split_embedding_weights()[0]
        return rows_RW

    def step(self, batch: Batch) -> float:
        """Seconds of forward, backward and update."""
        rows_N = torch.from_numpy(batch.rows_N)
        return seconds_of(lambda: self._table(rows_N, self._offsets).backward(self._gradients_NW))


class ZeroCollision:
    """TorchRec's managed collision module in front of its fused embedding bags, row-wise Adagrad, in train mode.

    The map knows all ids from the start. Its passes over the history, where new ids get in and old ones leave, fall
    after the last of ``num_calls``: they are not in the figure, which is in the peer's favour.
    """

    name = "TorchRec MCH + EBC"

    def __init__(self, num_rows: int, gradients_NW: Floats, num_calls: int) -> None:
        with _imports_that_warn():
            import torchrec
            from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
            from torchrec.modules.mc_modules import (
                LFU_EvictionPolicy,
                ManagedCollisionCollection,
                MCHManagedCollisionModule,
            )

        num_ids, width = gradients_NW.shape
        self._gradients_NW = torch.from_numpy(gradients_NW)
        self._lengths_N = torch.ones(num_ids, dtype=torch.int32)
        self._features = torchrec.KeyedJaggedTensor
        tables = [
            torchrec.EmbeddingBagConfig(name=GROUP, embedding_dim=width, num_embeddings=num_rows, feature_names=["id"])
        ]
        remap = MCHManagedCollisionModule(
            zch_size=num_rows,
            device=torch.device("cpu"),
            eviction_policy=LFU_EvictionPolicy(),
            eviction_interval=num_calls + 1,
        )
        known = torch.from_numpy(np.sort(keys_of(np.arange(num_rows))))
        remap.load_state_dict(remap.state_dict() | {"_mch_sorted_raw_ids": known})
        self._remap = ManagedCollisionCollection({GROUP: remap}, tables)
        optimizer = {"lr": LEARNING_RATE, "eps": EPS}
        self._bags = FusedEmbeddingBagCollection(tables, torchrec.optim.RowWiseAdagrad, optimizer)

    @property
    def rows_RW(self) -> torch.Tensor:
        """The table itself, in the order of the sorted keys."""
        rows_RW: torch.Tensor = self._bags.state_dict()[f"embedding_bags.{GROUP}.weight"]
        return rows_RW

    def step(self, batch: Batch) -> float:
        """Seconds of remapping, forward, backward and update."""
        keys_N = torch.from_numpy(batch.keys_N)
        return seconds_of(lambda: self._step(keys_N))

    def _step(self, keys_N: torch.Tensor) -> None:
        remapped = self._remap(self._features(["id"], keys_N, lengths=self._lengths_N))
        self._bags(remapped).values().backward(self._gradients_NW)


@contextmanager
def _imports_that_warn() -> Iterator[None]:
    """fbgemm warns of each kernel that its CPU build leaves out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def aligned_floats(num_rows: int, width: int) -> Floats:
    """A float32 array (num_rows, width) of zeros that starts at a cache line, on huge pages where there are any."""
    num_bytes = -(-4 * num_rows * width // 8) * 8
    return aligned_int64s(num_bytes).view(np.float32)[: num_rows * width].reshape(num_rows, width)
