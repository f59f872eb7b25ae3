"""Who is waited for, and for how long."""

from worklets.stdiorelay.readers import Readers


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_slowest_known_reader_counts() -> None:
    readers = Readers(60, Clock())
    assert readers.lowest is None
    readers.arrive("a", 0)
    readers.arrive("b", 5)
    readers.ack("a", 9)
    assert readers.lowest == 5
    readers.forget("b")
    assert readers.lowest == 9
    readers.ack("a", 3)  # late news
    assert readers.lowest == 9


def test_one_that_went_is_known_until_its_time_is_over_and_here_again_when_it_comes_back() -> None:
    clock = Clock()
    readers = Readers(60, clock)
    readers.arrive("a", 4)
    readers.leave("a")
    assert (readers.here, readers.known) == (0, 1)
    clock.now += 60
    readers.sweep()
    assert readers.lowest == 4
    readers.arrive("a", 2)  # it may have read on and not told: what it acknowledged stays acknowledged
    clock.now += 1000
    readers.sweep()
    assert (readers.here, readers.lowest) == (1, 4)
    readers.leave("a")
    clock.now += 60.1
    readers.sweep()
    assert (readers.known, readers.lowest) == (0, None)


def test_a_place_is_kept_for_a_while() -> None:
    clock = Clock()
    readers = Readers(60, clock)
    readers.arrive("a", 0)
    assert readers.other("b", 10)
    assert not readers.other("a", 10)
    readers.leave("a")
    clock.now += 9
    assert readers.other("b", 10)
    clock.now += 2
    assert not readers.other("b", 10)


def test_applied_inputs_are_remembered_beyond_the_reader() -> None:
    readers = Readers(60, Clock())
    readers.arrive("a", 0)
    readers.apply("a", 3)
    readers.forget("a")
    assert readers.applied("a") == 3
    assert readers.applied("b") == 0
    for n in range(10_000):
        readers.apply(f"other {n}", 1)
    assert readers.applied("a") == 0
    assert readers.applied("other 0") == 1
