"""Worklets whose relay says nothing more.

An agent cannot stop its relay, and may find a way to hang it: the watch over its disk would hang with it. A session at
work does not notice by itself, since an agent can stand between and answer what is not sealed, pings that is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sessions.agents import AgentHost
from worklets.relaydial import Answer

_ROUNDS = 3  # in a row: a machine that is overloaded, or was suspended, makes everybody silent for a while
_SECONDS = 30.0  # rounds can follow each other at once, and the engine be slow to say that a container has ended
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Silent:
    """`is_old`: what is there says that it is of another version of Flow. An upgrade is no news for a thread."""

    worklet: str
    container_id: str
    is_old: bool


class Silences:
    """`seconds`: what is silent for less is not yet said to be. `clock` counts seconds."""

    def __init__(self, host: AgentHost, seconds: float = _SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._host, self._seconds, self._clock = host, seconds, clock
        #: Rounds in a row, and when the first of them ended, by worklet and container.
        self._silent: dict[tuple[str, str], tuple[int, float]] = {}

    async def lasting(self, worklets: Mapping[str, str]) -> list[Silent]:
        """One round: those of these running worklets that did not answer in it and in the ones before.

        `worklets` are containers' ids by name. A worklet that is not asked about in one round begins anew; a round in
        which its machine could not be reached does not count.
        """
        asked, places = list(worklets.items()), asyncio.Semaphore(_AT_ONCE)

        async def answers(name: str) -> Answer:
            async with places:
                return await self._host.answers(name)

        answered = dict(zip(asked, await asyncio.gather(*(answers(name) for name, _ in asked)), strict=True))
        now, before, self._silent = self._clock(), self._silent, {}
        for one, answer in answered.items():
            rounds, since = before.get(one, (0, now))
            if answer is Answer.AWAY and rounds:
                self._silent[one] = (rounds, now)
            elif answer is not Answer.AWAY and answer is not Answer.PROVEN:
                self._silent[one] = (rounds + 1, since)
        return [
            Silent(*one, is_old=answered[one] is Answer.OLD)
            for one, (rounds, since) in self._silent.items()
            if rounds >= _ROUNDS and now - since >= self._seconds and answered[one] is not Answer.AWAY
        ]
