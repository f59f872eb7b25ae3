"""Repositories and their branches as people search for them in the modal that starts a session.

Slack waits three seconds for a `block_suggestion` (docs.slack.dev, external select), and asks with every letter. So it
is answered from memory, in a thread; what the mirrors have is read beside it, and neither a host nor the secret store
is waited for. What cannot be read just now is as it was. How much is kept, and how long one look at the mirrors takes,
has a bound, however many repositories there are; what is left out is told where the options are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bot.parts import Block
from bot.plaintext import visible
from config.logging import get_logger

if TYPE_CHECKING:
    from worklets.mirrors import Mirrors
    from worklets.repositories import Repositories

log = get_logger(__name__)

NOTE = "!"  # begins the value of an option that only says what was left out: no repository's name does
_MOST = 100  # options of one answer (docs.slack.dev)
_TEXT, _VALUE = 75, 150  # characters of an option's text, and of its value
_BRANCHES = 2_000  # of a repository that are searched, those with the newest commits
_IN_ALL = 50_000  # of all repositories: with many of them fewer of each
_FRESH = 30.0  # seconds
_LOOK_SECONDS = 20.0  # for one look at the mirrors
_PATIENCE = 1.5  # seconds that the first search of all waits for what the mirrors have
_AT_ONCE = 4  # mirrors that are read


class BranchSearch:
    """One per program; `close` it.

    `most`: branches that are kept, of all repositories together. `seconds`: for one look at the mirrors; those that it
    did not come to are the first of the next one. `clock` counts seconds.
    """

    def __init__(
        self,
        repositories: Repositories,
        mirrors: Mirrors,
        *,
        most: int = _IN_ALL,
        seconds: float = _LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repositories, self._mirrors, self._clock = repositories, mirrors, clock
        self._most, self._seconds = min(_BRANCHES, max(1, most // max(1, len(repositories.all())))), seconds
        self._branches: dict[str, tuple[str, ...]] = {}  # by the repository's name
        self._cut: set[str] = set()  # repositories that have more
        self._asked: dict[str, float] = {}  # when each one's were read last, or tried to be
        self._looked = False
        self._reading: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Begins to read what the mirrors have, where that is older than half a minute. Returns at once."""
        if (self._reading is None or self._reading.done()) and (due := self._due()):
            self._reading = asyncio.create_task(self._look(due), name="branches")

    async def options(self, typed: str) -> list[Block]:
        """Options for what somebody has typed: repositories, then their branches, as they match. Raises nothing.

        The last ones say what was left out, where something was: their values begin with `NOTE`.
        """
        self.refresh()
        if not self._looked and self._reading is not None:
            await asyncio.wait([self._reading], timeout=_PATIENCE)
        known = [(one.name, self._branches.get(one.name, ())) for one in self._repositories.all()]
        return await asyncio.to_thread(found, typed, known, self._gaps())

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _due(self) -> list[str]:
        """Those whose turn it is, the longest unread first."""
        never, now = float("-inf"), self._clock()
        names = [one.name for one in self._repositories.all()]
        return sorted(
            (name for name in names if now >= self._asked.get(name, never) + _FRESH),
            key=lambda name: self._asked.get(name, never),
        )

    def _gaps(self) -> list[str]:
        """What is not searched, for people."""
        unread = sum(one.name not in self._branches for one in self._repositories.all())
        told = [f"… not searched so far: the branches of {_counted(unread)}"] if unread else []
        if self._cut:
            told.append(f"… of {_counted(len(self._cut))} only the newest {self._most:,} branches are searched")
        return told

    async def _look(self, due: Sequence[str]) -> None:
        waiting = iter(due)

        async def read() -> None:
            for name in waiting:
                self._asked[name] = self._clock()
                await self._read(name)

        try:
            async with asyncio.timeout(self._seconds), asyncio.TaskGroup() as readers:
                for _ in range(_AT_ONCE):
                    readers.create_task(read())
        except TimeoutError:
            log.info("there was no time to read all mirrors' branches", left=sum(1 for _ in waiting))
        self._looked = True

    async def _read(self, name: str) -> None:
        try:
            branches = await self._mirrors.known_branches(name, self._most + 1)
        except Exception:
            log.exception("a mirror's branches cannot be read", repository=name)
            return
        if branches is not None:
            self._branches[name] = branches[: self._most]
            (self._cut.add if len(branches) > self._most else self._cut.discard)(name)


def found(typed: str, known: Sequence[tuple[str, Sequence[str]]], gaps: Sequence[str] = ()) -> list[Block]:
    """At most 100 options: each word that was typed is in a repository's name or in its branch's. Pure.

    A value is a repository's name, or that, a space and the branch: no name holds one. Branches too long for a value
    are left out; they can be written into the field below. What was left out is told in options of their own, after
    the others: that, and the `gaps`.
    """
    words = typed.lower().split()
    alone = [name for name, _ in known if all(word in name.lower() for word in words)]
    ranked: tuple[list[tuple[str, str]], ...] = ([], [], [])  # the newest first within a rank
    fit, long = len(alone), 0
    for name, branches in known:
        fitting = branches
        for word in words:
            if word not in name.lower():
                fitting = [branch for branch in fitting if word in branch.lower()]
        fit += len(fitting)
        for branch in fitting:
            rank = ranked[_rank(words, branch.lower())]
            if len(name) + 1 + len(branch) > _VALUE:
                long += 1
            elif len(rank) < _MOST:
                rank.append((name, branch))
    told = list(gaps)
    if long:
        told.insert(0, f"… and {long:,} with names too long for this list: write one below")
    if fit - long + len(told) > _MOST:
        told.insert(0, f"… and more, {fit - long:,} in all: type more of the name")
    alone = alone[: _MOST - len(told)]
    first = [one for rank in ranked for one in rank][: _MOST - len(told) - len(alone)]
    return [
        *(_option(name, name) for name in alone),
        *(_option(f"{n} · {b}", f"{n} {b}") for n, b in first),
        *(_option(text, f"{NOTE}{number}") for number, text in enumerate(told)),
    ]


def parted(chosen: str) -> tuple[str | None, str | None]:
    """Repository and branch of an option's value."""
    name, _, branch = chosen.partition(" ")
    return name or None, branch or None


def _counted(repositories: int) -> str:
    return f"{repositories:,} {'repository' if repositories == 1 else 'repositories'}"


def _rank(words: Sequence[str], lower: str) -> int:
    """Of a branch's name in small letters: whole names go first, then what begins so."""
    if not words:
        return 0
    last = words[-1]
    return 0 if lower == last else 1 if lower.startswith(last) else 2


def _option(text: str, value: str) -> Block:
    shown = visible(text)
    if len(shown) > _TEXT:  # the end says which one it is
        shown = f"{shown[: _TEXT // 3]}…{shown[-(_TEXT - _TEXT // 3 - 1) :]}"
    return {"text": {"type": "plain_text", "text": shown, "emoji": False}, "value": value}
