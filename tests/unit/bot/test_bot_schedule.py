"""Who may call Slack next, on a clock of the test's own."""

from __future__ import annotations

from collections import deque

import pytest

from bot.schedule import Job, Method, Schedule, Urgency
from sessions.types import TurnId


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def job(key: str, since: float = 0.0, urgency: Urgency = Urgency.GROW, **more: object) -> Job:
    values = {"method": Method.EDIT, "channel": "C1", **more}
    return Job(TurnId(key), urgency=urgency, since=since, **values)  # type: ignore[arg-type]


def order(schedule: Schedule) -> list[str]:
    taken = []
    while (found := schedule.next()[0]) is not None:
        schedule.take(found)
        taken.append(found.key)
    return taken


def test_finals_first_then_whoever_waited_longest(time: Time) -> None:
    schedule = Schedule(time)
    schedule.put(job("b", since=2))
    schedule.put(job("a", since=1))
    schedule.put(job("first", since=9, urgency=Urgency.FIRST))
    schedule.put(job("final", since=10, urgency=Urgency.FINAL))
    assert order(schedule) == ["final", "first", "a", "b"]
    assert schedule.next() == (None, None)


def test_the_newest_wish_replaces_the_old_one(time: Time) -> None:
    schedule = Schedule(time)
    schedule.put(job("a", not_before=time.now + 5))
    assert schedule.next() == (None, 5.0)
    schedule.put(job("a", urgency=Urgency.FINAL))
    assert order(schedule) == ["a"]


def test_a_wish_put_off_or_changed_in_kind_leaves_nothing_behind(time: Time) -> None:
    schedule = Schedule(time)
    schedule.put(job("a"))
    assert schedule.next()[0] is not None  # it was due already when it was put off
    schedule.put(job("a", not_before=1005.0))
    assert schedule.next() == (None, 5.0)
    schedule.put(job("a", method=Method.POST))
    assert schedule.next() == (job("a", method=Method.POST), 0.0)
    schedule.drop(TurnId("a"))
    assert schedule.next() == (None, None)


def test_what_becomes_due_is_ranked_with_what_waits(time: Time) -> None:
    schedule = Schedule(time)
    schedule.put(job("grows", since=1.0))
    schedule.put(job("ends later", since=2.0, urgency=Urgency.FINAL, not_before=1003.0))
    assert schedule.next() == (job("grows", since=1.0), 0.0)
    time.now += 3
    assert order(schedule) == ["ends later", "grows"]


def test_edits_stay_within_fifty_a_minute(time: Time) -> None:
    schedule, sent = Schedule(time), deque[float]()
    for _ in range(3000):
        schedule.put(job("a", since=time.now))
        found, _ = schedule.next()
        if found is not None:
            schedule.take(found)
            sent.append(time.now)
        time.now += 0.1
    assert sent[4] - sent[0] < 1  # a small burst after a pause
    for index in range(50, len(sent)):
        assert sent[index] - sent[index - 50] > 60
    assert len(sent) >= 0.95 * 50 * 5


def test_posts_are_spaced_by_channel(time: Time) -> None:
    schedule = Schedule(time)
    for number in range(20):
        schedule.put(job(f"x{number}", method=Method.POST, channel="C1"))
        schedule.put(job(f"y{number}", method=Method.POST, channel="C2"))
    first = order(schedule)
    assert sum(key.startswith("x") for key in first) == sum(key.startswith("y") for key in first) == 4
    assert schedule.next()[1] == pytest.approx(1.0)
    time.now += 1.0
    assert sorted(key[0] for key in order(schedule)) == ["x", "y"]


def test_retry_after_blocks_that_method_only(time: Time) -> None:
    schedule = Schedule(time)
    schedule.put(job("edit"))
    schedule.put(job("post", method=Method.POST))
    schedule.hold(Method.EDIT, 7)
    assert order(schedule) == ["post"]
    assert schedule.next() == (None, 7.0)
    time.now += 7
    assert order(schedule) == ["edit"]


def staleness(threads: int, seconds: float, tick: float = 0.1) -> tuple[float, float]:
    """Mean and worst age of the oldest unseen change, with all threads writing all the time."""
    time = Time()
    schedule = Schedule(time)
    since: dict[str, float] = {}
    last = {f"{number}": float("-inf") for number in range(threads)}
    ages: list[float] = []
    for step in range(int(seconds / tick)):
        time.now += tick
        for key, edited in last.items():
            if key not in since:
                since[key] = time.now
                schedule.put(job(key, since=time.now, not_before=edited + 3.0))
        while (found := schedule.next()[0]) is not None:
            schedule.take(found)
            del since[found.key]
            last[found.key] = time.now
        if step * tick > 120:  # the first burst is over
            ages += [time.now - at for at in since.values()]
    return sum(ages) / len(ages), max(ages)


def test_fifty_threads_share_fairly() -> None:
    mean, worst = staleness(50, 600)
    assert worst <= 1.2 * 60  # an ideal round robin comes to each once a minute
    assert mean <= 1.2 * 30


def test_one_thread_is_edited_every_three_seconds() -> None:
    mean, worst = staleness(1, 300)
    assert worst <= 1.2 * 3
    assert mean <= 1.2 * 1.5


def test_a_final_passes_fifty_growing_ones() -> None:
    time = Time()
    schedule, waits = Schedule(time), []
    for step in range(6000):
        for number in range(50):
            schedule.put(job(f"{number}", since=time.now - number))
        if step % 200 == 100:
            schedule.put(job("final", since=time.now, urgency=Urgency.FINAL))
            began = time.now
        while (found := schedule.next()[0]) is not None:
            schedule.take(found)
            if found.key == "final":
                waits.append(time.now - began)
        time.now += 0.1
    assert len(waits) == 30
    assert max(waits) < 8
    assert sorted(waits)[15] <= 1.3
