import pytest

from simulator.clock import ManualClock
from simulator.errors import RateLimited
from simulator.limits import POST_BURST, RateLimits


def allowed(limits: RateLimits, method: str, calls: int, app: str = "A1", channel: str = "C1") -> int:
    count = 0
    for _ in range(calls):
        try:
            limits.check(app, method, {"channel": channel})
        except RateLimited:
            continue
        count += 1
    return count


def test_a_tier_is_calls_per_minute_and_says_when_to_come_back() -> None:
    clock = ManualClock()
    limits = RateLimits(clock)
    assert allowed(limits, "chat.update", 80) == 50
    clock.advance(17.5)
    with pytest.raises(RateLimited) as caught:
        limits.check("A1", "chat.update", {})
    assert caught.value.retry_after == 43
    clock.advance(43)
    assert allowed(limits, "chat.update", 80) == 50


def test_methods_and_apps_are_limited_apart() -> None:
    limits = RateLimits(ManualClock())
    assert allowed(limits, "chat.startStream", 30) == 20
    assert allowed(limits, "chat.appendStream", 130) == 100
    assert allowed(limits, "chat.startStream", 30, app="A2") == 20


def test_posting_is_one_a_second_and_channel_with_a_short_burst() -> None:
    clock = ManualClock()
    limits = RateLimits(clock)
    assert allowed(limits, "chat.postMessage", 10) == POST_BURST
    assert allowed(limits, "chat.postMessage", 10, channel="C2") == POST_BURST
    with pytest.raises(RateLimited) as caught:
        limits.check("A1", "chat.postMessage", {"channel": "C1"})
    assert caught.value.retry_after == 1
    clock.advance(2)
    assert allowed(limits, "chat.postMessage", 10) == 2


def test_limits_can_be_off_chosen_or_scaled() -> None:
    assert allowed(RateLimits(ManualClock(), None), "chat.update", 500) == 500
    chosen = RateLimits(ManualClock(), {"chat.update": 3})
    assert allowed(chosen, "chat.update", 10) == 3
    assert allowed(chosen, "chat.postMessage", 100) == 100
    assert allowed(RateLimits(ManualClock(), "real", 2.0), "chat.update", 500) == 100
