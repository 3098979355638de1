"""The shard's end of lanes: a thread for each worker answers its calls, in the order in which they come."""

import threading

from recsys.ps.shard import StepShard
from recsys.ps.steps import Part
from recsys.ps.wire import gradients_of
from recsys.runtime.bells import Answer, Bell, Push, Read
from recsys.runtime.lanes import PUSH, PUSH_ANSWER, READ, READ_ANSWER, Laid, Lane, LaneLost


class Answering:
    """Answers reads and pushes through lanes. ``failures`` holds what calls have raised, by lane and number."""

    def __init__(self, shard: StepShard) -> None:
        self._shard = shard
        self._widths = {name: group.width for name, group in shard.store.groups.items()}
        self._bells: list[Bell] = []
        self.failures: dict[tuple[str, int], Exception] = {}

    def open(self, name: str) -> bool:
        """Answer from now on what comes through a lane; False where it lies on another machine."""
        try:
            lane, bell = Lane.opened(name), Bell.opened(name)
        except LaneLost:
            return False
        self._bells.append(bell)
        threading.Thread(target=self._serve, args=(lane, bell), name=f"lane {name}", daemon=True).start()
        return True

    def close(self) -> None:
        """Answer nobody any more."""
        for bell in self._bells:
            bell.hang_up()

    def _serve(self, lane: Lane, bell: Bell) -> None:
        """Answer until the other end is gone."""
        try:
            while True:
                asked = bell.receive()
                assert not isinstance(asked, Answer)
                bell.send(self._answer(lane, asked))
        except LaneLost:
            self._bells.remove(bell)
            bell.close()

    def _answer(self, lane: Lane, asked: Read | Push) -> Answer:
        try:
            laid = self._read(lane, asked) if isinstance(asked, Read) else self._push(lane, asked)
        except Exception as error:
            self.failures[lane.name, asked.number] = error
            return Answer(asked.number, failed=True)
        return Answer(asked.number, laid)

    def _read(self, lane: Lane, asked: Read) -> tuple[Laid, ...]:
        (keys,) = lane.get(READ, *asked.laid)
        laid, rows = lane.room(READ_ANSWER, {name: len(keys_N) for name, keys_N in keys.items()}, self._widths)
        if asked.method == "pull":
            self._shard.pull(keys, *asked.others, out=rows)
        else:
            worker, step = asked.others  # its keys are looked at again with the step's push: they still lie there then
            self._shard.prefetch(worker, step, keys, out=rows)
        return (laid,)

    def _push(self, lane: Lane, asked: Push) -> tuple[Laid, ...] | None:
        keys, rows, counts = lane.get(PUSH, *asked.laid)
        gradients = gradients_of(keys, rows, counts)
        part = Part(asked.worker, asked.step, gradients, asked.event_time_ms, asked.weight, asked.position)
        changed = self._shard.push(part, asked.refresh, borrowed=True)
        if changed is None:
            return None
        positions = {name: at for name, (at, _) in changed.items()}
        return lane.put(PUSH_ANSWER, positions, {name: rows_UW for name, (_, rows_UW) in changed.items()})
