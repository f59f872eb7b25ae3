"""What a turn's thread is told beside Claude's words: what became of its worklet, its money, the hosts it wanted."""

from __future__ import annotations

from collections import deque

from sessions.link import Link
from sessions.purse import Purse, warning
from sessions.shared import Shared
from sessions.types import Turn
from worklets.events import Remark

_MOST = 20  # that wait to be told
_BLOCKED = 10  # hosts that are named


class Remarks:
    """Of one turn. All coroutines raise what the link raises."""

    def __init__(self, shared: Shared, link: Link, turn: Turn, purse: Purse) -> None:
        self._shared, self._link, self._turn, self._purse = shared, link, turn, purse
        self._waiting: deque[str] = deque(maxlen=_MOST)
        self._blocked: dict[str, str] = {}  # hosts that the worklet wanted and may not reach, and why
        self._number = 0  # of the last one

    def add(self, text: str) -> None:
        """Told when the turn's runner looks; each text once in a turn."""
        self._waiting.append(text)
        self._link.inbox.ring()

    def blocked(self, host: str, reason: str) -> None:
        """All such hosts are told together, at the end."""
        if len(self._blocked) <= _BLOCKED:
            self._blocked[host] = reason

    async def tell(self) -> None:
        """What waits, the money first."""
        while self._purse.warnings or self._waiting:
            text = warning(self._purse.warnings.popleft()) if self._purse.warnings else self._waiting.popleft()
            await self._say(text)

    async def mention(self) -> None:
        """What the thread should know of its new worklet."""
        for text in dict.fromkeys(self._link.untold):
            await self._say(text)
        self._link.untold = ()

    async def end(self) -> None:
        """The turn is over: which hosts were blocked in it."""
        if hosts := list(self._blocked):
            more = len(hosts) > _BLOCKED
            count = "a host" if len(hosts) == 1 else f"more than {_BLOCKED} hosts" if more else f"{len(hosts)} hosts"
            reasons = set(self._blocked.values()) - {""}
            why = f" Why: {reasons.pop()}." if len(reasons) == 1 else ""
            self.add(f"Flow blocked {count}: {', '.join(hosts[:_BLOCKED])}{' and more' if more else ''}.{why}")
            await self.tell()

    async def _say(self, text: str) -> None:
        # No number twice, or the second remark would be taken for the first.
        self._number = max(self._number + 1, int(self._shared.store.clock().timestamp() * 1000))
        if await self._link.remark(self._turn.id, remark := Remark(text), self._number):
            self._shared.tell(self._link.session, self._turn, remark)
