"""How many operations a second somebody may do."""

from __future__ import annotations

import pytest

from kvstore.gateway.errors import Refusal
from kvstore.gateway.rate import Rate


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_two_seconds_worth_at_once_and_then_as_many_as_the_rate() -> None:
    clock = Clock()
    rate = Rate(10, clock)
    for _ in range(20):
        rate.take("w", 1)
    with pytest.raises(Refusal) as caught:
        rate.take("w", 1)
    assert (caught.value.status, caught.value.retry_after) == (429, 0.1)
    rate.take("another", 1)
    clock.now += 0.125
    rate.take("w", 1)


def test_who_waits_as_long_as_told_gets_in_however_short_that_is() -> None:
    clock = Clock()
    rate = Rate(100_000, clock)
    rate.take("w", 200_000)
    with pytest.raises(Refusal) as caught:
        rate.take("w", 1)
    assert caught.value.retry_after == 0.001
    clock.now += 0.001
    rate.take("w", 1)
