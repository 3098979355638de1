"""Since when records lie unread, where only some of their times are known."""

from recsys.streams.source import Partition
from recsys.streams.unread import UnreadSince

A, B = Partition("a", 0), Partition("b", 0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_what_was_fetched_is_known() -> None:
    unread = UnreadSince(Clock())
    unread.delivered(A, 5)
    assert unread.look({A: 2, B: 1}, {A: 7, B: 9}) == {A: 7, B: 9}
    assert unread.look({A: 0, B: 0}, {}) == {}


def test_what_was_not_fetched_is_younger_than_the_last_one_delivered() -> None:
    unread = UnreadSince(Clock())
    unread.delivered(A, 400_000)
    unread.delivered(A, 500_000)
    assert unread.look({A: 9}, {}) == {A: 500_000}
    assert unread.look({A: 9}, {}) == {A: 500_000}  # nothing moved: it is still as old
    unread.delivered(A, 700_000)
    assert unread.look({A: 8}, {}) == {A: 700_000}


def test_after_a_silence_it_is_as_old_as_since_it_was_seen() -> None:
    """The last one delivered says nothing of it: hours may lie between."""
    clock = Clock()
    unread = UnreadSince(clock)
    unread.delivered(A, 5)
    assert unread.look({A: 0}, {}) == {}
    clock.now = 2000.0
    assert unread.look({A: 1}, {}) == {A: 2_000_000}
    clock.now = 2003.0
    assert unread.look({A: 4}, {}) == {A: 2_000_000}


def test_what_nobody_has_begun_to_read_is_as_old_as_since_it_was_seen() -> None:
    assert UnreadSince(Clock()).look({A: 3}, {}) == {A: 1_000_000}
