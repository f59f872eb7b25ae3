"""Operations a second: a token bucket for each who asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from kvstore.gateway.errors import too_large, too_many

MAX_PARTS: Final = 1_000_000  # of a body; a value of a mebibyte has 700,000 at most
_SMALL: Final = 2048  # bytes of a body that costs no more than the request itself
_BYTES_PER_OPERATION: Final = 16_384
_PARTS_PER_OPERATION: Final = 400  # about a tenth of a millisecond

BURST_SECONDS: Final = 2.0
_MANY: Final = 1024  # from here on, full buckets are thrown away: a new one is full too


class Rate:
    """`rate` operations a second each, and at most two seconds' worth at once. `clock` is in seconds."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, rate * BURST_SECONDS, clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._next_clean_up = _MANY

    def take(self, who: str, operations: float) -> None:
        """Raises Refusal, with the time to wait, when `who` has not as many left."""
        now = self._clock()
        left, at = self._buckets.get(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        need = min(operations, self._burst)
        if left < need:
            # Rounded up to the milliseconds that are told: who waits so long gets in.
            raise too_many(math.ceil(round((need - left) / self._rate * 1000, 6)) / 1000)
        self._buckets[who] = (left - need, now)
        if len(self._buckets) > self._next_clean_up:
            self._clean_up(now)

    def charge(self, who: str, operations: float) -> None:
        """As `take`, of what is done already: it lets `who` wait the next time."""
        now = self._clock()
        left, at = self._buckets.get(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate) - operations
        self._buckets[who] = (max(left, -self._burst), now)

    def _clean_up(self, now: float) -> None:
        self._buckets = {
            w: (n, at) for w, (n, at) in self._buckets.items() if n + (now - at) * self._rate < self._burst
        }
        self._next_clean_up = 2 * max(len(self._buckets), _MANY)


def parts(body: bytes) -> int:
    """About how many values a JSON text has, even where it is a string within another. Raises Refusal: too many."""
    found = body.count(b",") + body.count(b"[") + body.count(b"{")
    if found > MAX_PARTS:
        raise too_large(f"A request may have {MAX_PARTS} values, one within another counted too; send it in parts.")
    return found


def cost(length: int, of_parts: int = 0) -> int:
    """How many operations more it counts as to parse, or to write, so much text."""
    return 0 if length <= _SMALL else length // _BYTES_PER_OPERATION + of_parts // _PARTS_PER_OPERATION
