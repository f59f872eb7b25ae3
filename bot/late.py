"""Calls that took effect when another process had their session already.

A lease is looked at before each call, and nothing keeps a process from standing still between the look and the call
(SIGSTOP, a laptop's lid, a host that swaps): the call goes out when it wakes up. By then another process may have
posted the same message, or shown a newer look, which the late call covers with an older one. No lease can call it
back; but whoever sent it learns afterwards that it was late, and sets it right: a turn that is over is shown anew; of
one that is not, the table says which message is covered, for whoever shows it (`Outbox`); a second message goes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from slack_sdk.errors import SlackApiError

from bot.answer import Action, Answer
from bot.delivery import Delivery
from bot.parts import ROOT
from bot.refusals import Meaning, refusal
from bot.schedule import Method
from bot.store import MessageStore
from bot.tasks import Tasks
from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.types import TurnId

log = get_logger(__name__)

_ADDING = (Method.POST, Method.START, Method.UPLOAD)  # what may stand in Slack, and nobody knows where
_COVERING = (Method.APPEND, Method.STOP, Method.EDIT, Method.DELETE)
_LONGEST = 24 * 3600.0  # seconds that the end of a turn is waited for
_COVERS = 2  # times that a message is called covered: the first may be lost to a look that is just being noted down
_PAUSES = (0.5, 1.0, 2.0, 5.0, 15.0)  # seconds between two looks; the last one for ever


@dataclass(slots=True)
class _Late:
    """`ts`: of a message that is known to be posted late."""

    answer: Answer
    method: Method
    part: int
    ts: str | None = None
    covers: int = 0  # times yet that its message is called covered


class LateCalls:
    """`again(turn_id)`: whoever has the session shows the turn anew; False while it is not shown to the end."""

    def __init__(
        self, delivery: Delivery, store: MessageStore, again: Callable[[TurnId], Awaitable[bool]], tasks: Tasks
    ) -> None:
        self._delivery = delivery
        self._store = store
        self._again = again
        self._tasks = tasks
        self._watched: set[tuple[TurnId, int, Method]] = set()

    def changed(self, answer: Answer, action: Action) -> None:
        """A call that may have changed a message has ended after its session was another's, or may have been."""
        key = (answer.turn_id, action.message.index, action.method)
        if action.method in (*_ADDING, *_COVERING) and key not in self._watched:
            covers = _COVERS if action.method in _COVERING else 0
            self._begin(_Late(answer, action.method, action.message.index, covers=covers))

    def posted(self, answer: Answer, action: Action, ts: str) -> None:
        """So has one that posted the message at `ts`."""
        self._begin(_Late(answer, action.method, action.message.index, ts))

    def _begin(self, late: _Late) -> None:
        if self._tasks.open:
            log.info("a call came late; its message is looked at again", part=late.part, ts=late.ts)
            self._watched.add((late.answer.turn_id, late.part, late.method))
            self._tasks.start(self._mend(late), "late call")

    async def _mend(self, late: _Late) -> None:
        turn_id, pauses = late.answer.turn_id, iter(_PAUSES)
        try:
            async with asyncio.timeout(_LONGEST):
                while not await self._is_mended(late):  # noqa: ASYNC110 - another process decides it
                    await asyncio.sleep(next(pauses, _PAUSES[-1]))
        except TimeoutError:
            log.warning("a turn is not shown to the end, so a late call was not looked at", turn=turn_id)
        finally:
            self._watched.discard((turn_id, late.part, late.method))

    async def _is_mended(self, late: _Late) -> bool:
        """A message that was posted late goes where another one stands for its part, or none by now."""
        turn_id, ts = late.answer.turn_id, late.ts
        try:
            await self._store.doubt(turn_id, late.part if late.covers else None)
            late.covers = max(0, late.covers - 1)
            shown = await self._again(turn_id)
            is_second = ts is not None and await self._store.posted(turn_id, late.part, ts) not in (ts, None)
            if ts is None and shown and late.method in _ADDING:
                return await self._remove_others(late)
        except StoreUnavailable as error:
            log.debug("cannot look after a late call; trying again", error=str(error))
            return False
        if is_second and ts is not None:
            return await self._remove(late.answer, late.part, ts)
        return shown

    async def _remove_others(self, late: _Late) -> bool:
        """Of a part whose post had no answer, or of a file, which has none: all messages but the one that counts."""
        answer = late.answer
        thread = None if late.part == ROOT else answer.thread_ts
        try:
            found = await self._delivery.all_of(answer.channel, thread, answer.turn_id, late.part, answer.asked_ts)
        except Exception as error:  # noqa: BLE001 - each is read in one place
            return not _may_pass(error, "cannot look for a message that came late; trying again")
        known = await self._store.posted(answer.turn_id, late.part, found[0][1]) if found else None
        counts = next((ts for ts, name in found if name == known), None)
        others = [] if known is None else [ts for ts, _ in found if ts != counts]
        return all([await self._remove(answer, late.part, ts) for ts in others])

    async def _remove(self, answer: Answer, part: int, ts: str) -> bool:
        try:
            with contextlib.suppress(SlackApiError):  # it is no open stream, which alone could not be deleted
                await self._delivery.stop_stream(answer.channel, ts, answer.turn_id, part, ())
            await self._delivery.delete(answer.channel, ts)
        except Exception as error:  # noqa: BLE001 - each is read in one place
            if _may_pass(error, "cannot delete a message that came twice; trying again"):
                return False
            log.info("a message that came twice is gone, or stays", error=refusal(error).error, ts=ts)
        return True


def _may_pass(error: Exception, what: str) -> bool:
    said = refusal(error)
    passing = said.meaning in (Meaning.UNKNOWN, Meaning.LIMITED, Meaning.TOKEN)
    if passing:
        log.debug(what, error=said.error)
    return passing
