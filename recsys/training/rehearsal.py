"""A recorded stream learned in this process, its last part judged by what served copies would have answered.

Training knows nothing of the copies: one pass judges any number of them, on the same examples, beside the live rows.
Monolith's online training (arXiv 2209.07663, section 4.3) is judged so: the last part is cut into shards, each of them
predicted by a model that has learned all before it, then learned.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated

from recsys.batches.batch import LabelledBatch
from recsys.errors import ConfigError
from recsys.fields import Above, AtLeast, Below, Between, NotEmpty
from recsys.ps.routing import NUM_BUCKETS, merge_snapshots, split_snapshot
from recsys.rows.store import RowStore, Snapshot
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.served_copy import ServedCopy
from recsys.training.trainer import Trainer

LIVE = "live"  # what the trainer itself predicts, before it learns
Share = Annotated[float, Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class LostShard:
    """``evaluation.lost_shard``: of ``shards``, one goes back, at a share of the stream, to what it held at another.

    As ``recovery.mode=available`` has it: the others, and training, go on. Its part of the dense parameters goes too.
    """

    shards: Annotated[int, Between(1, NUM_BUCKETS)]
    at: Share
    back_to: Share

    def __post_init__(self) -> None:
        if self.back_to > self.at:
            raise ConfigError(f"back_to={self.back_to} is after at={self.at}; a shard goes back to what it held before")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """``evaluation``: learn the recorded stream in this process, and judge the ``last`` share of it by served copies.

    ``syncs`` makes a copy each: so often is it brought up to date in the last part, at equal distances from its begin
    on. 1 is once, as it begins: the frozen model. Figures become a line in ``<folder>/<page>.jsonl``, and the page
    ``<page>.md`` beside it; a run whose line is there is not run again. ``joined`` keeps joined examples for runs to
    come.
    """

    page: Annotated[str, NotEmpty()]
    last: Annotated[float, Above(0), Below(1)] = 0.3
    syncs: Annotated[tuple[Annotated[int, AtLeast(1)], ...], NotEmpty()] = (100,)
    lost_shard: LostShard | None = None
    folder: Path = Path("docs/results")
    joined: Path = Path("runs/joined")


def rehearse(
    trainer: Trainer,
    batches: Iterable[LabelledBatch],
    num_examples: int,
    evaluation: Evaluation,
    on_step: Callable[[int], None],
) -> dict[str, ProgressiveMetrics]:
    """Learn ``batches`` of ``num_examples`` in all; the predictions on the last part, live and of each copy.

    By what made them: "live", or the copy's number of syncs. Callback: (step).
    """
    first = int(num_examples * (1 - evaluation.last))
    copies = [_Judged(trainer, num_syncs, first, num_examples) for num_syncs in evaluation.syncs]
    lost = None if evaluation.lost_shard is None else _Losing(trainer.store, evaluation.lost_shard, num_examples)
    live, seen = ProgressiveMetrics(), 0
    for batch, upcoming in pairwise(chain(batches, [None])):
        assert batch is not None
        if lost is not None:
            lost.begin(seen)
        if seen >= first:
            for copy in copies:
                copy.judge(batch, seen)
        result = trainer.step(batch, upcoming=upcoming)
        if seen >= first:
            live.add(time_ms=batch.times_ms_B, labels=batch.labels_B, probabilities=result.probabilities_B)
        seen += batch.num_examples
        on_step(trainer.num_steps)
    return {LIVE: live, **{str(copy.num_syncs): copy.predicted for copy in copies}}


class _Judged:
    """A served copy and what it predicts."""

    def __init__(self, trainer: Trainer, num_syncs: int, first: int, end: int) -> None:
        self._recommender, self._copy = trainer.recommender, ServedCopy(trainer.store, f"copy-{num_syncs}")
        self._due = [first + (end - first) * at // num_syncs for at in range(num_syncs)]
        self.num_syncs, self.predicted = num_syncs, ProgressiveMetrics()

    def judge(self, batch: LabelledBatch, seen: int) -> None:
        """Predict what comes after ``seen`` examples, brought up to date before where it is time for that."""
        if self._due and seen >= self._due[0]:
            self._copy.sync()
            self._due = [due for due in self._due if due > seen]
        probabilities_B = self._recommender.predict(batch, self._copy)
        self.predicted.add(time_ms=batch.times_ms_B, labels=batch.labels_B, probabilities=probabilities_B)


class _Losing:
    """Takes the snapshot, and puts the first shard's part of it back when its time has come."""

    def __init__(self, store: RowStore, lost: LostShard, num_examples: int) -> None:
        self._store, self._shards = store, lost.shards
        self._back_to, self._at = int(lost.back_to * num_examples), int(lost.at * num_examples)
        self._kept: Snapshot | None = None
        self._is_over = False

    def begin(self, seen: int) -> None:
        """Before what comes after ``seen`` examples is learned."""
        if self._kept is None and seen >= self._back_to:
            self._kept = self._store.snapshot()
        if not self._is_over and seen >= self._at:
            assert self._kept is not None
            self._store.restore(with_lost_shard(self._store, self._kept, self._shards))
            self._is_over = True


def with_lost_shard(store: RowStore, kept: Snapshot, num_shards: int) -> Snapshot:
    """The store as it is, but for the first of ``num_shards``, which is as in ``kept``."""
    groups = dict(store.groups)
    now, before = (split_snapshot(snapshot, groups, num_shards) for snapshot in (store.snapshot(), kept))
    return merge_snapshots([before[0], *now[1:]])
