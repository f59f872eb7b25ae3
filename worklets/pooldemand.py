"""How many worklets should stand ready: as many as were asked for lately."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=10)  # of the demand that counts
_MINUTE = timedelta(minutes=1)


class Demand:
    """`size`: the least and the most that stand ready."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._misses: list[datetime] = []

    def missed(self, now: datetime) -> None:
        """A session could have taken one, and there was none."""
        self._misses = [*self._recent(now), now]

    def target(self, taken: Sequence[datetime], now: datetime) -> int:
        """As many as were asked for in the busiest minute of the last ten, between the least and the most.

        `taken`: when sessions got one in that time.
        """
        least, most = self._size
        return max(least, min(most, busiest_minute([*taken, *self._recent(now)])))

    def _recent(self, now: datetime) -> list[datetime]:
        return [moment for moment in self._misses if moment > now - WINDOW]


def busiest_minute(moments: Sequence[datetime]) -> int:
    """The most of them that lie within one minute."""
    ordered, most, first = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > _MINUTE:
            first += 1
        most = max(most, last - first + 1)
    return most
