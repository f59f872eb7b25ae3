"""Whether Slack answers at all. While it does not, one call at a time finds out when it does again.

Pure but for an injected clock (seconds, monotonic).
"""

from __future__ import annotations

import random

from bot.schedule import Clock

_FIRST, _LONGEST = 0.5, 30.0  # seconds between two attempts


class Outage:
    """Begins with the second call in a row that gets no answer. Calls that were under way by then count once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._until = float("-inf")
        self._era = 0
        self._probing = False

    @property
    def on(self) -> bool:
        return self._failures > 1

    def wait(self) -> float | None:
        """Seconds until a call may be made. None: not before the one that is under way has ended."""
        if not self.on:
            return 0.0
        return None if self._probing else max(0.0, self._until - self._clock())

    def begin(self) -> int:
        """A call is being made; what is returned is for `failed`."""
        self._probing = self.on
        return self._era

    def failed(self, era: int) -> None:
        """It got no answer, or a 5xx."""
        if era != self._era:
            return
        self._failures += 1
        if self.on:
            pause = min(_LONGEST, _FIRST * 2 ** min(self._failures - 2, 8))
            self.rest(pause * random.uniform(0.6, 1.0))

    def rest(self, seconds: float) -> None:
        """Nothing before that, and then one call."""
        self._failures = max(2, self._failures)
        self._until = self._clock() + seconds
        self._era += 1
        self._probing = False

    def answered(self, era: int) -> bool:
        """Slack said something. True: that ends an outage. What was asked before the outage began does not."""
        was_on = self.on
        if was_on and era != self._era:
            return False
        self._failures, self._probing = 0, False
        return was_on

    def gave_up(self, era: int) -> None:
        """The call was not made after all."""
        if era == self._era:
            self._probing = False
