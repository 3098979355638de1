"""One row group in memory: an index from key to slot, and arrays by slot that never move.

A row carries the step of its last change, four bytes, and all that is a matter of time follows from it: what a consumer
has not seen, what has expired, what is evicted first. Step 0 marks a slot without a row.

Shape suffixes: N keys asked for, U distinct ones, A absent ones, W row width, S state width.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys import hashing
from recsys.errors import ConfigError, ServiceError
from recsys.hashing import Floats, Keys
from recsys.rows import gathering, updates
from recsys.rows.array import ArrayIndex
from recsys.rows.clock import EventClock
from recsys.rows.collisionless import CollisionlessIndex, Slots
from recsys.rows.deletes import DeleteLog
from recsys.rows.formats import FORMATS, LSQ8
from recsys.rows.importance import Importance, norms_of, winners
from recsys.rows.lsq8_kernels import learn_steps
from recsys.rows.memory import array_by_slot
from recsys.rows.parallel import in_parts, in_pieces
from recsys.rows.policies import ImportanceAdmission
from recsys.rows.retention import gate_of, rows_in_budget
from recsys.rows.store import Deletes, GroupSnapshot, RowGroup, Upserts
from recsys.rows.summing import SlotGroups

Counts = npt.NDArray[np.int64]

_BLOCK = 2048  # rows of few bits that are worked on at a time, while they are in the CPU's cache
_MAX_STEP = 2**32 - 1
_NO_ERRORS = np.empty(0, np.float32)
_SWEEPS = 64  # of expired rows, in the time that a row lives
_USES = "uses"  # LFU's counts, among the state of a snapshot
_IMPORTANCE = "importance"


class Push(NamedTuple):
    """Gradients of one group, checked; ``counts_N``: how often each key occurred in the batch, None for once."""

    keys_N: Keys
    gradients_NW: Floats
    counts_N: Counts | None = None


class Found(NamedTuple):
    """Keys that were pulled, and their slots: most are pushed next, and need not be looked for again.

    Slots stay as long as no row is deleted; a key that had none may have one by now.
    """

    keys_N: Keys
    slots_N: Slots


class Rows:
    """The rows of one group, or one shard's share of them."""

    def __init__(self, group: RowGroup, *, buckets: range, num_buckets: int, threads: int) -> None:
        self.group = group
        self._share, self._threads = (buckets, num_buckets), threads
        self._widths = group.optimizer.state_widths(group.width)
        self._format = LSQ8 if group.row_format == LSQ8.name else FORMATS[group.row_format]
        self._rounds = self._format.dtype != np.float32
        self._counts_uses = group.eviction is not None and group.eviction.kind == "lfu"
        self._weighs = isinstance(group.admission, ImportanceAdmission)
        self._ttl_ms = None if group.ttl_seconds is None else int(1000 * group.ttl_seconds)
        self._fresh_state = np.array(
            [group.optimizer.initial_state(name) for name, width in self._widths.items() for _ in range(width)],
            np.float32,
        )
        self._pairs = hashing.column_hashes(group.width, group.seed)
        self._update = updates.Update(group.optimizer)
        self._deletes = DeleteLog()
        self._max_rows = rows_in_budget(group, len(buckets) / num_buckets, self._row_bytes)
        self.clear()

    def clear(self) -> None:
        """Forget all rows, without a word to the consumers."""
        group = self.group
        self.index: ArrayIndex | CollisionlessIndex
        if group.num_rows is None:
            self.index, capacity = CollisionlessIndex(seed=group.seed, threads=self._threads), None
        else:
            self.index = ArrayIndex(group.num_rows, *self._share)
            capacity = self.index.num_slots
        self._values = array_by_slot(capacity, self._format.dtype, self._format.num_values(group.width))
        self._scales = array_by_slot(capacity if self._format.has_scales else 0, np.float32)
        self._state = array_by_slot(capacity, np.float32, sum(self._widths.values()))
        self._steps = array_by_slot(capacity, np.uint32)
        self._own_steps = array_by_slot(capacity if self._update.lazy else 0, np.uint32)
        self._uses = array_by_slot(capacity if self._counts_uses else 0, np.uint16)
        self._num_steps = 0  # of the optimizer: pushes that named this group
        self._clock = EventClock(self._ttl_ms)
        self._swept = -1
        self._found: Found | None = None
        self._gate = gate_of(group)
        self._importance = (
            Importance(group.admission, group.seed) if isinstance(group.admission, ImportanceAdmission) else None
        )

    # --- reading

    def pull(self, keys_N: Keys, rows_NW: Floats | None = None) -> Floats:
        """Rows of keys, into ``rows_NW`` where it is given."""
        if rows_NW is None:
            rows_NW = np.empty((len(keys_N), self.group.width), np.float32)
        out_NW, found_N, slots_N = rows_NW, np.empty(len(keys_N), np.int64), np.empty(len(keys_N), np.int64)

        def read(start: int, stop: int) -> None:
            found_N[start:stop] = keys_N[start:stop]
            self.index.find_into(keys_N[start:stop], slots_N[start:stop])
            self._read(slots_N[start:stop], keys_N[start:stop], out_NW[start:stop])

        in_pieces(read, len(keys_N), self._threads)
        self._found = Found(found_N, slots_N)
        return rows_NW

    def _read(self, slots_N: Slots, keys_N: Keys, rows_NW: Floats) -> None:
        """Rows as they are at the end of the last step: what they missed is made up for in the copy alone."""
        self._format.decode(self._values, self._scales, slots_N, rows_NW)
        absent = np.flatnonzero(slots_N < 0)
        if len(absent):
            rows_NW[absent] = self.group.absent_rows(keys_N[absent])
        if self._update.lazy:
            state_NS, own_steps_N = self._state[slots_N], self._own_steps[slots_N]
            state_NS[absent], own_steps_N[absent] = self._fresh_state, 0
            self._update.catch_up(rows_NW, state_NS, np.arange(len(slots_N)), own_steps_N, self._num_steps)

    def stale(self, keys_N: Keys, since: int) -> Slots:
        """Positions of the keys whose rows may read otherwise than they did after a step.

        Where untouched rows miss something, all do. What has no row reads the same as long as none is deleted.
        """
        if self._update.lazy:
            return np.arange(len(keys_N))
        slots_N = self.index.find(keys_N)
        changed_N = self._steps[slots_N] > since
        changed_N[slots_N < 0] = self._deletes.latest > since
        return np.flatnonzero(changed_N)

    # --- writing

    def checked(self, keys_N: Keys, gradients_NW: Floats, counts_N: Counts | None = None) -> Push:
        """A push that can be applied; DataError for others. Nothing is changed yet."""
        keys_N = self.group.checked_keys(keys_N)
        if counts_N is not None:
            counts_N = self.group.checked_counts(len(keys_N), counts_N)
        gradients_NW = self.group.shaped_gradients(len(keys_N), gradients_NW)
        in_pieces(lambda start, stop: self.group.check_finite(gradients_NW[start:stop]), len(keys_N), self._threads)
        return Push(keys_N, gradients_NW, counts_N)

    def push(self, push: Push, step: int, time_ms: int) -> None:
        """Apply gradients in a new step at an event time; rows that expired by then leave before."""
        if step >= _MAX_STEP:
            raise ServiceError(f"row group {self.group.name!r}: {step:,} steps are more than a row can carry")
        self._num_steps += 1
        self._update.prepare(self._num_steps)
        self._clock.advance(step, time_ms)
        self._expire(step)
        num_keys = self.index.num_keys
        slots_N = self._slots_with_new_rows(push, step)
        if self._counts_uses:
            self._count_uses(slots_N, push.counts_N)
        all_are_new = self.index.num_keys - num_keys == len(slots_N)
        if all_are_new or gathering.ascends(push.keys_N):  # each once: ascending as Embeddings sends them
            in_pieces(partial(self._apply_distinct, slots_N, push, step), len(slots_N), self._threads)
        else:
            groups = SlotGroups(slots_N, self.index.num_slots, self._threads)
            in_parts(partial(self._apply_summed, groups, push, step), len(slots_N), self._threads)

    def _apply_distinct(self, slots_N: Slots, push: Push, step: int, start: int, stop: int) -> None:
        """Apply the gradients of keys that occur once."""
        slots_U, keys_U, gradients_UW = slots_N[start:stop], push.keys_N[start:stop], push.gradients_NW[start:stop]
        if slots_U.min(initial=0) < 0:
            admitted = slots_U >= 0
            slots_U, keys_U, gradients_UW = slots_U[admitted], keys_U[admitted], gradients_UW[admitted]
        size = _BLOCK if self._rounds else max(1, len(slots_U))
        for at in range(0, len(slots_U), size):
            self._apply(slots_U[at : at + size], keys_U[at : at + size], gradients_UW[at : at + size], step)

    def _apply_summed(self, groups: SlotGroups, push: Push, step: int, part: int, parts: int) -> None:
        """Sum the gradients of each slot in input order and apply them."""
        for slots_U, positions_U, sums_UW in groups.blocks(part, parts, push.gradients_NW):
            self._apply(slots_U, push.keys_N[positions_U], sums_UW, step)

    def _apply(self, slots_U: Slots, keys_U: Keys, gradients_UW: Floats, step: int) -> None:
        """One step of distinct rows. Rows of few bits are worked on as float32 copies, and rounded back."""
        state, own_steps, slots_W, values = self._state, self._own_steps, slots_U, self._values
        if self._rounds:
            values, slots_W = np.empty(gradients_UW.shape, np.float32), np.arange(len(slots_U))
            self._format.decode(self._values, self._scales, slots_U, values)
            state, own_steps = state[slots_U], own_steps[slots_U] if self._update.lazy else own_steps
        self._update.catch_up(values, state, slots_W, own_steps, self._num_steps - 1)
        self._update.apply(values, state, slots_W, gradients_UW, self._num_steps)
        if self.group.learned_step is not None:
            learn_steps(values, self._scales[slots_U], gradients_UW, self.group.learned_step.rate)
        if self._rounds:
            seed = self.group.seed % 2**63
            # drawn by the group's own step: the store's also counts what is done for consumers, at times of their own
            self._format.encode(self._values, self._scales, slots_U, keys_U, values, seed, self._num_steps)
            self._state[slots_U] = state
        gathering.stamp(self._steps, slots_U, step)
        if self._update.lazy:
            gathering.stamp(self._own_steps, slots_U, self._num_steps)

    def _slots_with_new_rows(self, push: Push, step: int) -> Slots:
        """The slot of every key; new rows where there were none, -1 for keys that are not admitted."""
        if self.group.admission is None and self._max_rows is None:
            found, self._found = self._found, None
            known = found is not None and np.array_equal(found.keys_N, push.keys_N)
            slots_N, new = self.index.insert(push.keys_N, found.slots_N if found is not None and known else None)
            self._begin(push.keys_N, slots_N, new)
            return slots_N
        if self._importance is not None:
            return self._slots_by_importance(self._importance, push, step)
        slots_N = self.index.find(push.keys_N)
        absent = np.flatnonzero(slots_N < 0)
        keys_A, first, inverse_A = np.unique(push.keys_N[absent], return_index=True, return_inverse=True)
        counts_A = np.bincount(inverse_A, None if push.counts_N is None else push.counts_N[absent], len(keys_A))
        admitted_A = self._gate.admit(keys_A, counts_A.astype(np.int64), self._num_steps)
        in_order = np.argsort(first[admitted_A])  # new slots follow each other as the keys do
        keys_A = self._within_budget(keys_A[admitted_A][in_order], slots_N[slots_N >= 0], step)
        self._begin(keys_A, *self.index.insert(keys_A))
        slots_N[absent] = self.index.find(push.keys_N[absent])
        return slots_N

    def _slots_by_importance(self, importance: Importance, push: Push, step: int) -> Slots:
        """The slot of every key, -1 of those without a row; rows that matter less have left for keys that matter more.

        None of the rows that this push touches does.
        """
        keys_U, norms_U = norms_of(push.keys_N, push.gradients_NW)
        slots_U = self.index.find(keys_U)
        absent_U = slots_U < 0
        importance.begin_step(self._num_steps, self.index.num_slots)
        importance.add(slots_U[~absent_U], norms_U[~absent_U])
        keys_A, scores_A = keys_U[absent_U], importance.ask(keys_U[absent_U], norms_U[absent_U])
        self._steps[slots_U[~absent_U]] = step
        assert self._max_rows is not None
        room = max(0, self._max_rows - self.index.num_keys)
        is_full = np.count_nonzero(scores_A) > room
        keys_R, slots_R = self._changed_in(0, step - 1 if is_full else 0)
        new, gone = winners(scores_A, importance.of_rows[slots_R], room)
        self.delete(keys_R[gone], step)
        slots_A, begun = self.index.insert(keys_A[new])
        self._begin(keys_A[new], slots_A, begun)
        importance.begin(keys_A[new], slots_A, scores_A[new])
        return self.index.find(push.keys_N)

    def _begin(self, keys_N: Keys, slots_N: Slots, new_A: Slots) -> None:
        """Fresh rows and fresh optimizer state for the keys at some positions, in slots that may have served others."""
        group = self.group

        def begin(start: int, stop: int) -> None:
            slots, keys = slots_N[new_A[start:stop]], keys_N[new_A[start:stop]]
            if not self._rounds:
                gathering.begin_uniform(
                    self._values, slots, keys, self._pairs, np.uint64(group.seed % 2**64),
                    np.float32(group.initial.scale),
                )  # fmt: skip
            else:
                self._format.encode_nearest(self._values, self._scales, slots, group.initial_rows(keys))
            gathering.fill(self._state, slots, self._fresh_state)
            if self._update.lazy:
                self._own_steps[slots] = 0
            if self._counts_uses:
                self._uses[slots] = 0

        in_pieces(begin, len(new_A), self._threads)

    def check_retuned(self, group: RowGroup) -> None:
        """Refuse a group that is not this one but for settings of its optimizer, whose state must stay what it is."""
        ours, theirs = self.group.optimizer, group.optimizer
        if replace(group, optimizer=ours) != self.group or theirs.kind != ours.kind or theirs.lazy != ours.lazy:
            raise ConfigError(f"row group {group.name!r}: {theirs} can not go on with what {ours} has learned")

    def retune(self, group: RowGroup) -> None:
        """Go on with the group's new optimizer."""
        self.group, self._update = group, updates.Update(group.optimizer)
        self._update.prepare(self._num_steps)

    # --- who gets a row, and who leaves

    def _expire(self, step: int) -> None:
        """Rows that nobody has touched for longer than they live, a few dozen times in that time."""
        if self._ttl_ms is None:
            return
        sweep = self._clock.time_ms // max(1, self._ttl_ms // _SWEEPS)
        if sweep == self._swept:
            return
        self._swept = sweep
        last = min(self._clock.last_step_before(self._clock.time_ms - self._ttl_ms), step - 1)
        self.delete(self._changed_in(0, last)[0], step)

    def _within_budget(self, keys_A: Keys, kept_slots: Slots, step: int) -> Keys:
        """Those of new keys that may have a row; others leave for them, but none of those that this push touches."""
        if self._max_rows is None:
            return keys_A
        missing = self.index.num_keys + len(keys_A) - self._max_rows
        if missing > 0:
            self._steps[kept_slots] = step
            self._evict(max(missing, self._max_rows // _SWEEPS), step)
        return keys_A[: max(0, self._max_rows - self.index.num_keys)]

    def _evict(self, num: int, step: int) -> None:
        """Delete ``num`` rows not touched in this step: the least used where uses are counted, the oldest of these."""
        keys, slots = self._changed_in(0, step - 1)
        uses = self._uses[slots] if self._counts_uses else np.zeros(len(slots), np.uint16)
        first = np.lexsort((keys, self._steps[slots], uses))[:num]
        self.delete(keys[first], step)

    def _count_uses(self, slots_N: Slots, counts_N: Counts | None) -> None:
        if gathering.count_uses(self._uses, slots_N, np.ones(len(slots_N), np.int64) if counts_N is None else counts_N):
            self._uses[: self.index.num_slots] //= 2

    # --- deleting, changes, snapshots

    def delete(self, keys_U: Keys, step: int) -> None:
        """Remove rows of distinct keys."""
        present = self.index.find(keys_U) >= 0
        self._found = None
        freed = self.index.delete(keys_U)
        self._steps[freed] = 0
        self._deletes.record(keys_U[present], step)

    def upserts(self, since: int) -> Upserts:
        """Rows changed after a step; all, as changed now, where single changes can no longer be told."""
        complete = since < self._deletes.complete_from
        keys, slots = self._changed_in(0 if complete else since, _MAX_STEP)
        steps = self._steps[slots].astype(np.int64)
        rows_UW = np.empty((len(keys), self.group.width), np.float32)
        self._read(slots, keys, rows_UW)
        return Upserts(keys, rows_UW, np.maximum(steps, self._deletes.complete_from) if complete else steps)

    def deletes(self, since: int) -> Deletes:
        """Keys deleted after a step and not back again, each with its latest deletion."""
        if since < self._deletes.complete_from:
            return Deletes(np.empty(0, np.int64), np.empty(0, np.int64))
        keys, sequences = self._deletes.since(since)
        gone = self.index.find(keys) < 0
        return Deletes(keys[gone], sequences[gone])

    def is_complete(self, since: int) -> bool:
        """Whether ``upserts`` tells every row, because what else has gone since can not be told."""
        return since < self._deletes.complete_from

    def forget_deletes(self, up_to: int) -> None:
        """Every consumer knows of the deletions up to a step."""
        self._deletes.forget(up_to)

    def resend(self, step: int) -> None:
        """Let every consumer be told all rows anew."""
        self._deletes.restart(step)

    def remembers(self, since: int) -> bool:
        """Whether all deletions after a step are known."""
        return since >= max(self._deletes.complete_from, self._deletes.forgotten)

    def snapshot(self, after: int = 0) -> GroupSnapshot:
        """A copy of everything, or of what changed after a step."""
        keys, slots = self._changed_in(after, _MAX_STEP)
        rows_UW, state, columns = np.empty((len(keys), self.group.width), np.float32), {}, self._state[slots]
        self._format.decode(self._values, self._scales, slots, rows_UW)
        start = 0
        for name, width in self._widths.items():
            state[name] = columns[:, start : start + width]
            start += width
        if self._counts_uses:
            state[_USES] = self._uses[slots].astype(np.float32)[:, None]
        if self._importance is not None:
            state[_IMPORTANCE] = self._importance.of_rows[slots][:, None]
        steps = self._steps[slots].astype(np.int64)
        waiting = (*self._gate.items(), _NO_ERRORS) if self._importance is None else self._importance.waiting.items()
        return GroupSnapshot(
            keys,
            rows_UW,
            state,
            self._clock.times_of(steps),
            steps,
            time_ms=self._clock.time_ms,
            num_steps=self._num_steps,
            own_steps_U=self._own_steps[slots].astype(np.int64) if self._update.lazy else None,
            candidate_keys_C=waiting[0],
            candidate_counts_C=waiting[1],
            candidate_errors_C=waiting[2],
            deleted_keys_D=self.deletes(after).keys_U if after else np.empty(0, np.int64),
        )

    def check_fits(self, snapshot: GroupSnapshot) -> None:
        """Refuse a snapshot of other keys, width or optimizer, before anything is replaced."""
        name = self.group.name
        self.group.checked_keys(snapshot.keys_U)
        if snapshot.rows_UW.shape[1:] != (self.group.width,):
            raise ConfigError(
                f"row group {name!r}: the snapshot's rows are {snapshot.rows_UW.shape[1]} wide, not {self.group.width}"
            )
        if set(snapshot.state) - {_USES, _IMPORTANCE} != set(self._widths):
            raise ConfigError(
                f"row group {name!r}: the snapshot's optimizer state is {sorted(snapshot.state)}, this optimizer's is "
                f"{sorted(self._widths)}; restore with the optimizer it was trained with"
            )

    def restore(self, snapshot: GroupSnapshot, step: int) -> None:
        """Replace all rows; ``step`` is the store's, at or after all of theirs."""
        self.clear()
        slots, _ = self.index.insert(snapshot.keys_U)
        self._format.encode_nearest(self._values, self._scales, slots, snapshot.rows_UW)
        if self._widths:
            self._state[slots] = np.concatenate([snapshot.state[name] for name in self._widths], axis=1)
        steps = np.maximum(snapshot.sequences_U, 1)
        self._steps[slots] = steps
        self._num_steps = snapshot.num_steps
        self._update.prepare(self._num_steps)  # a row is read, and catches up, before the next push
        if self._update.lazy and snapshot.own_steps_U is not None:
            self._own_steps[slots] = snapshot.own_steps_U
        if self._counts_uses and _USES in snapshot.state:
            self._uses[slots] = snapshot.state[_USES][:, 0]
        self._clock.rebuild(steps, snapshot.event_times_U, step, snapshot.time_ms)
        if self._ttl_ms is not None:
            self._swept = self._clock.time_ms // max(1, self._ttl_ms // _SWEEPS)
        if self._importance is None:
            self._gate.restore(snapshot.candidate_keys_C, snapshot.candidate_counts_C)
        elif _IMPORTANCE in snapshot.state:
            self._importance.of_rows[slots] = snapshot.state[_IMPORTANCE][:, 0]
            self._importance.waiting.restore(
                snapshot.candidate_keys_C, snapshot.candidate_counts_C, snapshot.candidate_errors_C
            )

    @property
    def nbytes(self) -> int:
        """Bytes held: rows, state, index, and what waits."""
        of_rows = self.index.num_slots * self._row_bytes
        return self.index.nbytes + of_rows + self._waiting_bytes + self._deletes.nbytes + self._update.nbytes

    @property
    def _waiting_bytes(self) -> int:
        return self._gate.nbytes if self._importance is None else self._importance.waiting.nbytes

    @property
    def _row_bytes(self) -> int:
        """Bytes by slot: row, state, last step, and what the group's policies need."""
        of_state = 4 * sum(self._widths.values())
        steps = 4 + 4 * self._update.lazy
        return self._format.row_bytes(self.group.width) + of_state + steps + 2 * self._counts_uses + 4 * self._weighs

    def _changed_in(self, after: int, up_to: int) -> tuple[Keys, Slots]:
        """Keys and slots of the rows whose last change came after one step and no later than another."""
        chosen, num = gathering.between(self._steps, self.index.num_slots, after, up_to)
        return self.index.items(chosen, num)
