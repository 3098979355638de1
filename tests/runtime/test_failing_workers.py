"""What waits for a worker that has failed is let go, and a run that is refused has changed nothing."""

import contextlib
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.errors import ServiceError
from recsys.runtime.near import remembered
from recsys.runtime.worker import WorkerActor


class Log:
    """What a worker writes to; ``error`` is what becomes of it."""

    def __init__(self, error: OSError | None = None) -> None:
        self.closed, self.error = False, error

    def add(self, *arguments: Any) -> None:
        if self.error is not None:
            raise self.error

    flush = add

    def close(self) -> None:
        self.closed = True


def worker_with(log: Log, read: Any) -> WorkerActor:
    """A worker in the middle of step 5, without a stream and a model."""
    worker = object.__new__(WorkerActor)
    worker.__dict__.update(
        _log=log, _archive=None, _log_is_free=threading.Condition(), _taking=5, _stopping=False, _takes_part=True,
        _ready=deque(), _batches=SimpleNamespace(finished=False), _rows=SimpleNamespace(leave=lambda: None),
        _look=lambda: None, _read=read,
    )  # fmt: skip
    return worker


def failing() -> None:
    raise ServiceError("the shard has refused it")


def test_nobody_waits_for_the_step_of_a_worker_that_has_failed() -> None:
    worker = worker_with(Log(), failing)
    waiting = threading.Thread(target=worker.logged, args=(7,), daemon=True)
    waiting.start()
    with pytest.raises(ServiceError, match="the shard has refused it"):
        worker.run()
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_a_full_disk_under_the_run_is_said() -> None:
    full = OSError(28, "No space left on device")
    worker = worker_with(Log(full), failing)
    worker._taking = None
    with pytest.raises(ServiceError, match=r"can not be written \(No space left on device\); make room under the run"):
        worker.logged(7)


def test_an_answer_that_comes_once_can_be_asked_for_again() -> None:
    asked: list[int] = []

    def answer() -> None:
        asked.append(1)
        raise ServiceError("refused")

    again = remembered(answer)
    for _ in range(2):
        with contextlib.suppress(ServiceError):
            again()
    assert asked == [1]
    with pytest.raises(ServiceError, match="refused"):
        again()
