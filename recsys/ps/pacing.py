"""Whether a worker reads the next step's rows ahead: chosen by what its steps take, now and then anew.

Reading ahead hides the way to the shards behind a step's computing. Where shards and workers share busy cores there is
nothing to hide behind, and what it adds (a second call, rows read again) is paid in full. Both give the same rows, so
trying both costs nothing but time.
"""

import statistics
import time
from collections.abc import Callable

_WARM_UP = 4  # steps after a change of mind that still show the earlier one


class Pace:
    """``trial_steps`` each way, then ``settled_steps`` the quicker way, and again.

    A step's time counts by key, since steps differ in size, and only from its pull to the return of its push: waiting
    for a stream to bring examples is neither's doing. ``clock`` tells seconds. With ``reads_ahead`` it is not a choice.

    >>> Pace(reads_ahead=False).reads_ahead
    False
    """

    def __init__(
        self,
        *,
        reads_ahead: bool | None = None,
        trial_steps: int = 24,
        settled_steps: int = 2000,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.reads_ahead = True if reads_ahead is None else reads_ahead
        self._is_chosen = reads_ahead is None
        self._trial_steps, self._settled_steps, self._clock = trial_steps, settled_steps, clock
        self._tried: dict[bool, float] = {}  # seconds a key, median of a trial's steps
        self._taken: list[float] = []  # of this trial
        self._started = 0.0
        self._left = trial_steps

    def began(self) -> None:
        """A step's pull begins."""
        self._started = self._clock()

    def ended(self, num_keys: int) -> None:
        """The step's push, of so many keys, is under way."""
        if not self._is_chosen:
            return
        self._taken.append((self._clock() - self._started) / max(1, num_keys))
        self._left -= 1
        if self._left == 0:
            self._go_on()

    def _go_on(self) -> None:
        """The other trial, or what they have shown."""
        if len(self._tried) == 2:  # it was settled: try both anew, first what did well
            self._tried.clear()
            self._left = self._trial_steps
        else:
            self._tried[self.reads_ahead] = statistics.median(self._taken[_WARM_UP:] or self._taken)
            other = not self.reads_ahead
            if other not in self._tried:
                self.reads_ahead, self._left = other, self._trial_steps
            else:
                self.reads_ahead, self._left = min(self._tried, key=self._tried.__getitem__), self._settled_steps
        self._taken = []
