"""TimeMerge against sorting everything at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.batches.merge import FOREVER, TimeMerge

TIMES = st.lists(st.lists(st.integers(0, 15), max_size=8).map(sorted), min_size=1, max_size=4)
Item = tuple[int, int, int]  # time, rank of the partition, offset


def drain(merge: TimeMerge) -> list[Item]:
    out = []
    for time_ms, item in merge.ready():
        assert item[0] == time_ms
        out.append(item)
    return out


class Feeder:
    """Puts the items of each partition in order, promises only what is true, and knows what is certain."""

    def __init__(self, times: list[list[int]]) -> None:
        self.items = [[(time_ms, rank, offset) for offset, time_ms in enumerate(row)] for rank, row in enumerate(times)]
        self.put = [0] * len(times)
        self.watermarks = [-1] * len(times)
        self.merge: TimeMerge[int, Item] = TimeMerge(range(len(times)))

    def act(self, rank: int, action: str, ahead: int) -> None:
        left = self.items[rank][self.put[rank] :]
        if action == "put" and left:
            self.merge.put(rank, left[0][0], left[0])
            self.put[rank] += 1
            self.watermarks[rank] = max(self.watermarks[rank], left[0][0])
        elif action == "advance":
            promise = min(left[0][0] if left else 99, self.watermarks[rank] + ahead)
            self.merge.advance(rank, promise)
            self.watermarks[rank] = max(self.watermarks[rank], promise)
        elif action == "close" and not left:
            self.merge.close(rank)
            self.watermarks[rank] = FOREVER

    def certain(self) -> list[Item]:
        """What may be handed out by now: items put before which nothing can come any more."""
        bounds = [(watermark, rank) for rank, watermark in enumerate(self.watermarks)]
        arrived = [item for rank, row in enumerate(self.items) for item in row[: self.put[rank]]]
        return sorted(item for item in arrived if all(item[:2] < bound for bound in bounds if bound[1] != item[1]))


@given(TIMES, st.data())
def test_every_interleaving_hands_out_the_sorted_order_as_early_as_it_is_certain(times, data) -> None:
    feeder, out = Feeder(times), []
    steps = st.tuples(
        st.integers(0, len(times) - 1), st.sampled_from(["put", "put", "advance", "close"]), st.integers(0, 4)
    )
    for rank, action, ahead in data.draw(st.lists(steps, max_size=40)):
        feeder.act(rank, action, ahead)
        out += drain(feeder.merge)
        assert out == feeder.certain()
        assert sum(feeder.merge.queued(rank) for rank in range(len(times))) == sum(feeder.put) - len(out)
    everything = sorted(item for row in feeder.items for item in row)
    for rank, row in enumerate(feeder.items):
        for _ in row:
            feeder.act(rank, "put", 0)
        feeder.act(rank, "close", 0)
    out += drain(feeder.merge)
    assert out == everything
    assert feeder.merge.closed and feeder.merge.watermark_ms == FOREVER and feeder.merge.late == 0


@given(TIMES, st.data())
def test_nothing_is_handed_out_before_the_watermark(times, data) -> None:
    feeder, watermark_ms = Feeder(times), -1
    steps = st.tuples(st.integers(0, len(times) - 1), st.sampled_from(["put", "advance", "close"]), st.integers(0, 4))
    for rank, action, ahead in data.draw(st.lists(steps, max_size=40)):
        feeder.act(rank, action, ahead)
        assert feeder.merge.watermark_ms >= watermark_ms  # it never goes back where nobody is idle
        watermark_ms = feeder.merge.watermark_ms
        assert all(time_ms >= watermark_ms for time_ms, _, _ in drain(feeder.merge))


def test_an_open_empty_partition_holds_the_others_back_up_to_its_watermark() -> None:
    merge: TimeMerge[str, str] = TimeMerge(["a", "b"])
    merge.put("b", 5, "b5")
    assert list(merge.ready()) == []
    merge.advance("a", 5)  # an item of "a" at 5 may still come, and goes first
    assert list(merge.ready()) == []
    merge.put("a", 5, "a5")
    merge.advance("a", 6)
    assert list(merge.ready()) == [(5, "a5"), (5, "b5")]


def test_a_tie_of_a_partition_named_earlier_needs_no_waiting() -> None:
    merge: TimeMerge[str, str] = TimeMerge(["a", "b"])
    merge.put("a", 5, "a5")
    merge.advance("b", 5)
    assert list(merge.ready()) == [(5, "a5")]
    merge.advance("b", 3)  # a promise is not taken back
    assert merge.watermark_ms == 5


def test_an_idle_partition_releases_the_others_and_its_late_items_are_counted() -> None:
    merge: TimeMerge[str, str] = TimeMerge(["a", "b"])
    merge.put("b", 5, "b5")
    merge.set_idle("a")
    assert list(merge.ready()) == [(5, "b5")]
    merge.put("a", 3, "a3")  # it wakes, with an item from before and one from after
    merge.put("a", 5, "a5")
    merge.put("a", 9, "a9")
    merge.put("b", 7, "b7")
    assert list(merge.ready()) == [(3, "a3"), (5, "a5"), (7, "b7")]
    assert merge.late == 1  # an item of the same time is not late
    merge.put("b", 10, "b10")
    assert list(merge.ready()) == [(9, "a9")]  # awake: waited for again
    assert merge.time_ms == 9


def test_a_partition_with_items_does_not_fall_idle() -> None:
    merge: TimeMerge[str, str] = TimeMerge(["a", "b"])
    merge.put("a", 1, "a1")
    merge.put("a", 3, "a3")
    merge.set_idle("a")
    merge.put("b", 2, "b2")
    assert list(merge.ready()) == [(1, "a1"), (2, "b2")]
    merge.put("b", 4, "b4")
    assert list(merge.ready()) == [(3, "a3")]


def test_idle_partitions_are_not_the_end() -> None:
    merge: TimeMerge[str, str] = TimeMerge(["a", "b"])
    merge.put("a", 5, "a5")
    merge.set_idle("b")
    assert list(merge.ready()) == [(5, "a5")]
    assert not merge.idle
    merge.close("a")
    assert (merge.idle, merge.closed, merge.watermark_ms) == (True, False, 5)  # "b" may wake
    merge.put("b", 8, "b8")
    assert (merge.idle, list(merge.ready())) == (False, [(8, "b8")])
    merge.set_idle("b")
    merge.close("b")
    assert (merge.idle, merge.closed, merge.watermark_ms) == (False, True, FOREVER)


def test_closed_partitions_do_not_fall_idle() -> None:
    merge: TimeMerge[str, str] = TimeMerge(["a", "b"])
    for partition in ("a", "b"):
        merge.close(partition)
        merge.set_idle(partition)
    assert (merge.closed, merge.watermark_ms) == (True, FOREVER)


def test_all_idle_stands_at_the_last_item() -> None:
    merge: TimeMerge[str, str] = TimeMerge(["a", "b"])
    merge.set_idle("a")
    merge.set_idle("b")
    assert (merge.idle, merge.watermark_ms) == (True, -1)
    merge.put("a", 4, "a4")
    assert list(merge.ready()) == [(4, "a4")]
    merge.set_idle("a")
    assert (merge.idle, merge.watermark_ms, merge.closed) == (True, 4, False)


@pytest.mark.parametrize("num_partitions", [1, 3])
def test_closed_only_when_everything_was_handed_out(num_partitions: int) -> None:
    merge: TimeMerge[int, str] = TimeMerge(range(num_partitions))
    merge.put(0, 5, "x")
    for partition in range(num_partitions):
        assert not merge.closed
        merge.close(partition)
    assert not merge.closed and merge.queued(0) == 1
    assert list(merge.ready()) == [(5, "x")]
    assert merge.closed
