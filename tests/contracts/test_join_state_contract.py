"""What a joiner's state promises, in memory and on disk; the disk is written, and begun again, in between."""

import heapq
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.batches.disk_queues import Changes, DiskDeadlines, DiskForgets
from recsys.batches.disk_state import PartitionDisk
from recsys.batches.join_state import DeadlineQueue, ForgetQueue, JoinState, Pending, Queue
from recsys.batches.merge import FOREVER
from recsys.batches.recent import Lately
from recsys.batches.rocks import Rocks, RocksMemory
from recsys.errors import DataError, ServiceError
from recsys.events import Action
from recsys.features.packing import pack
from recsys.features.state import History

IN_MEMORY = "/dev/shm" if Path("/dev/shm").exists() else None
TIMES = st.integers(0, 5000)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "pop", "commit"]), TIMES, st.text(min_size=1, max_size=3)))


class Oracle(Protocol):
    def add(self, entry: tuple[int, str]) -> None: ...
    def pop(self) -> tuple[int, str]: ...
    def entries(self) -> list[tuple[int, str]]: ...


class Heap:
    def __init__(self) -> None:
        self._held: list[tuple[int, str]] = []

    def add(self, entry: tuple[int, str]) -> None:
        heapq.heappush(self._held, entry)

    def pop(self) -> tuple[int, str]:
        return heapq.heappop(self._held)

    def entries(self) -> list[tuple[int, str]]:
        return sorted(self._held)


class Line:
    def __init__(self) -> None:
        self._held: deque[tuple[int, str]] = deque()

    def add(self, entry: tuple[int, str]) -> None:
        self._held.append(entry)

    def pop(self) -> tuple[int, str]:
        return self._held.popleft()

    def entries(self) -> list[tuple[int, str]]:
        return list(self._held)


def commit(queue: Any, rocks: Rocks | None, number: int) -> None:
    if rocks is not None:
        changes: Changes = {}
        queue.write(changes, number)
        rocks.write(changes)
        queue.settle()


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("in_memory", "durable", "oracle"), [(DeadlineQueue, DiskDeadlines, Heap), (ForgetQueue, DiskForgets, Line)]
)
@settings(deadline=None, max_examples=25)
@given(steps=STEPS)
def test_a_queue(
    in_memory: Callable[[], Queue],
    durable: Callable[..., Any],
    oracle: Callable[[], Oracle],
    on_disk: bool,
    steps: list[tuple[str, int, str]],
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        rocks = Rocks(Path(folder), RocksMemory(1, 1)) if on_disk else None
        queue, expected = durable(rocks, b"q") if rocks else in_memory(), oracle()
        for number, (step, time_ms, name) in enumerate(steps):
            if step == "add":
                queue.add(time_ms, name)
                expected.add((time_ms, name))
            elif step == "pop" and expected.entries():
                assert queue.pop() == expected.pop()
            else:
                commit(queue, rocks, number)
            held = expected.entries()
            assert queue.next_ms == (held[0][0] if held else FOREVER)
            found = list(queue.items())
            assert (sorted(found) if oracle is Heap else found) == held
            assert len(queue) == len(held)
        commit(queue, rocks, len(steps))
        if rocks:
            if durable is DiskForgets:
                again = DiskForgets(rocks, b"q", queue.taken)
                assert list(again.items()) == expected.entries()
            else:  # what was taken of a bucket that is not finished may come again
                assert set(DiskDeadlines(rocks, b"q").items()) >= set(expected.entries())
            rocks.close()


IDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["7", "é", '"', "a b"])
REQUESTS = st.one_of(
    st.builds(
        Pending,
        st.just("?"),
        IDS,
        IDS,
        st.integers(0, 2**53),
        st.tuples(st.lists(st.integers(-(2**63), 2**63 - 1)), st.floats()).map(pack),
        st.floats(0, 1),
        st.lists(st.sampled_from(["like", "click"])).map(tuple),
    ),
    st.lists(st.builds(Action, st.just("?"), IDS, st.just("like"), st.integers(0, 2**53)), min_size=1),
    st.integers(0, 2**64 - 1),
)


def named(request: Any, name: str) -> Any:
    """What is known, with the request id that it is known by."""
    if isinstance(request, list):
        return [Action(name, action.user_id, action.kind, action.time_ms) for action in request]
    if isinstance(request, Pending):
        request.request_id = name
    return request


@pytest.mark.parametrize("on_disk", [False, True])
@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "delete", "commit", "reopen"]), st.sampled_from(["a", "b", "é"]), REQUESTS)
    )
)
def test_what_is_known_by_request_id(on_disk: bool, steps: list[tuple[str, str, Any]]) -> None:
    expected: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:

        def opened() -> PartitionDisk:
            return PartitionDisk(Path(folder), RocksMemory(0.01, 1), origin="o")

        disk = opened() if on_disk else None
        kept = disk.kept if disk else JoinState()
        for step, name, request in steps:
            if step == "put":
                kept.requests[name] = expected[name] = named(request, name)
            elif step == "delete" and name in expected:
                del kept.requests[name], expected[name]
            elif disk:
                disk.commit({})
                if step == "reopen":
                    disk.close()
                    disk = opened()
                    kept = disk.kept
            assert all(repr(kept.requests.get(key)) == repr(expected.get(key)) for key in ("a", "b", "é", "other"))
            assert sorted(map(repr, kept.requests.items())) == sorted(map(repr, expected.items()))
        if disk:
            disk.close()


def test_histories_and_facts_outlive_their_joiner(tmp_path: Path) -> None:
    disk = PartitionDisk(tmp_path, RocksMemory(1, 1), origin="o")
    history = History()
    history.show(5, "x", 3)
    history.like(6, 7, 3)
    disk.histories[7], disk.histories["7"] = history, History()
    disk.commit({"said": 1})
    disk.histories[8] = history  # not committed
    disk.close()
    again = PartitionDisk(tmp_path, RocksMemory(1, 1), origin="another")
    assert (again.histories.get(7), again.histories.get("7"), again.histories.get(8)) == (history, History(), None)
    assert again.about is not None and again.about["said"] == 1 and again.origin == "o"
    again.close()


def test_a_folder_has_one_owner_at_a_time_and_damage_is_named(tmp_path: Path) -> None:
    with Rocks(tmp_path, RocksMemory(1, 1)) as rocks:
        rocks.write({b"a": b"1", b"b": b"2", b"c": None})
        assert list(rocks.scan(b"a", b"b")) == [(b"a", b"1")]
        with pytest.raises(ServiceError, match="is another process's"):
            Rocks(tmp_path, RocksMemory(1, 1), patience_seconds=0.1)
    (tmp_path / "CURRENT").write_bytes(b"junk")
    with pytest.raises(DataError, match="remove the folder: its partition goes on from the last checkpoint"):
        Rocks(tmp_path, RocksMemory(1, 1))


def test_what_was_used_lately_stays_within_its_bytes() -> None:
    lately = Lately(100_000)
    recent, other = lately.kind(), lately.kind()
    other.put_all(["other"], ["x"], [1])
    for number in range(10_000):
        recent.put_all([b"%d" % number], [b"x" * 100], [100])
        recent.get(b"0")
        assert (len(recent._old) + len(recent._young)) * 350 <= 105_000
    held = {**recent._old, **recent._young}
    assert len(held) * 350 > 35_000
    assert b"9999" in held and b"0" in held and b"1" not in held
    assert other.get("other") is None
    recent.drop_all([b"0"])
    assert recent.get(b"0") is None
