"""Who reads, and how far each of them has it: what all of them have may be let go."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_REMEMBERED = 10_000  # clients whose last input is known, also after they were forgotten as readers


@dataclass(slots=True)
class Reader:
    """A client that is here, or may come back. `left`: the monotonic time at which it went, None while it is here."""

    acked: int
    left: float | None = None


class Readers:
    def __init__(self, forget: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`forget`: seconds after which one that went without a goodbye is no longer waited for."""
        self._forget, self._clock = forget, clock
        self._known: dict[str, Reader] = {}
        self._applied: OrderedDict[str, int] = OrderedDict()

    def arrive(self, client: str, acked: int) -> None:
        reader = self._known.setdefault(client, Reader(acked))
        reader.left, reader.acked = None, max(reader.acked, acked)

    def leave(self, client: str) -> None:
        """The connection ended; the client may come back."""
        if reader := self._known.get(client):
            reader.left = self._clock()

    def forget(self, client: str) -> None:
        """It said goodbye."""
        self._known.pop(client, None)

    def forget_others(self, client: str) -> None:
        for other in self._known.keys() - {client}:
            del self._known[other]

    def ack(self, client: str, number: int) -> None:
        if reader := self._known.get(client):
            reader.acked = max(reader.acked, number)

    def sweep(self) -> None:
        """Forgets those who are away for too long."""
        now = self._clock()
        for client, reader in list(self._known.items()):
            if reader.left is not None and now - reader.left > self._forget:
                del self._known[client]

    @property
    def lowest(self) -> int | None:
        """What every known reader has; None when nobody is known."""
        return min((reader.acked for reader in self._known.values()), default=None)

    @property
    def known(self) -> int:
        return len(self._known)

    @property
    def here(self) -> int:
        return sum(reader.left is None for reader in self._known.values())

    def other(self, client: str, away: float) -> bool:
        """Is there another client than this one: here, or away for less than `away` seconds?"""
        now = self._clock()
        return any(
            reader.left is None or now - reader.left < away for name, reader in self._known.items() if name != client
        )

    def applied(self, client: str) -> int:
        """The number of its last input that was written to the process."""
        return self._applied.get(client, 0)

    def apply(self, client: str, number: int) -> None:
        self._applied[client] = number
        self._applied.move_to_end(client)
        if len(self._applied) > _REMEMBERED:
            self._applied.popitem(last=False)
