"""What a failed call means for an answer, and for all the others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from bot.answer import BLOCKS, HOPELESS, PLAIN, SECTIONS, Action, Answer, Search
from bot.outage import Outage
from bot.parts import ROOT, common, worded
from bot.refusals import Meaning, Refusal, place_sentence, refusal
from bot.schedule import Clock, Method, Schedule, Urgency
from bot.sending import Sender
from config.logging import get_logger

log = get_logger(__name__)

_PATIENCE = 6  # attempts at something that fails for no known reason
_PATIENCE_5XX = 10  # attempts at a message that Slack fails on while it answers otherwise
_TOKEN_REST = 30.0  # seconds until a refused token is tried again


@dataclass(slots=True)
class Entry:
    """An answer that is not shown to the end."""

    answer: Answer
    since: float | None = None  # the oldest change that nobody has seen
    method: Method = Method.POST  # of the next call, as far as known
    urgency: Urgency = Urgency.FIRST
    busy: bool = True  # a call is under way; at first, the table is being read
    tries: int = 0  # failures in a row that are its own
    misses: int = 0  # failures in a row
    retry_at: float = 0.0
    wordless_until: float = 0.0  # until then what a dead process showed stays: its words are on their way again
    unanswered: bool = False  # the last call failed because Slack was away
    closed: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # its last call has ended, after it was dropped

    def back_off(self, now: float) -> None:
        """The next attempt is some time off, longer each time."""
        self.misses += 1
        self.retry_at = now + min(30.0, 0.5 * 2 ** min(self.misses - 1, 8)) * random.uniform(0.6, 1.0)


class Setbacks:
    """`again()`: those who failed because Slack was away are to be tried again. `give_up(entry, sentence)`: nobody will
    see this answer."""

    def __init__(
        self,
        schedule: Schedule,
        outage: Outage,
        sender: Sender,
        clock: Clock,
        *,
        again: Callable[[], None],
        give_up: Callable[[Entry, str], Awaitable[None]],
    ) -> None:
        self._schedule = schedule
        self._outage = outage
        self._sender = sender
        self._clock = clock
        self._again = again
        self._give_up = give_up

    def answered(self, era: int) -> None:
        """Slack said something to a call of this era."""
        if self._outage.answered(era):
            log.info("Slack answers again")
            self._again()

    async def failed(self, entry: Entry, action: Action, error: Exception, era: int) -> None:
        """Decides how the entry goes on after this call."""
        if entry.answer.released:
            return self._outage.gave_up(era)
        try:
            await self._deal_with(entry, action, error, era)
        except Exception:
            log.exception("cannot deal with a failed call; trying again", turn=entry.answer.turn_id)
            self._outage.gave_up(era)
            entry.back_off(self._clock())

    async def _deal_with(self, entry: Entry, action: Action, error: Exception, era: int) -> None:
        message, said = action.message, refusal(error)
        if entry.answer.native is not None and entry.answer.native.refused(entry.answer, action, said):
            log.info("Slack refused a stream; going on by edits", method=action.method.value, error=said.error)
            self.answered(era)
            return
        known = {"method": action.method.value, "part": message.index, "error": said.error}
        if action.method is Method.UPLOAD and said.meaning not in (Meaning.UNKNOWN, Meaning.LIMITED):
            self.answered(era)  # all of it stands in the thread already
            message.lost = True
            log.warning("a long answer is not attached as a file", exc_info=error, **known)
            return
        message.unknown = message.unknown or (
            said.meaning is Meaning.UNKNOWN and action.method in (Method.POST, Method.START)
        )
        if said.meaning is Meaning.UNKNOWN:
            self._unanswered(entry, action, known, era)
        elif said.meaning is Meaning.TOKEN:
            self._token_refused(entry, action, said, known, era)
        else:
            self.answered(era)
            await self._refused_by_slack(entry, action, said, error, known)
        if message.lost and message.index == ROOT:
            await self._give_up_in_words(entry, said, known)

    def _unanswered(self, entry: Entry, action: Action, known: dict[str, Any], era: int) -> None:
        was_on = self._outage.on
        self._outage.failed(era)
        entry.back_off(self._clock())
        entry.unanswered = True
        (log.debug if was_on else log.warning)("Slack did not answer; trying again", attempt=entry.misses, **known)
        if self._outage.on:
            if not was_on:
                log.warning("Slack is not there; answers are kept until it is back")
            return
        entry.tries += action.method in (Method.POST, Method.EDIT, Method.UPLOAD)
        if entry.tries and entry.tries % _PATIENCE_5XX == 0:
            log.error("Slack fails on this message again and again; sending a simpler one", **known)
            self._simplify(action)

    def _token_refused(self, entry: Entry, action: Action, said: Refusal, known: dict[str, Any], era: int) -> None:
        """Until somebody mends the app: then all goes on by itself."""
        entry.unanswered = True
        log.error("Slack refuses the app's token; run `flow doctor`", **known)
        if said.error == "missing_scope":
            self.answered(era)
            self._schedule.hold(action.method, _TOKEN_REST)
        else:
            self._outage.rest(_TOKEN_REST)

    async def _refused_by_slack(
        self, entry: Entry, action: Action, said: Refusal, error: Exception, known: dict[str, Any]
    ) -> None:
        answer, message = entry.answer, action.message
        if said.meaning is not Meaning.LIMITED and not self._sender.holds(answer):
            # Its messages may be another process's by now, which decides what such a refusal means.
            entry.back_off(self._clock())
            return
        looking = action.method in (Method.REPLIES, Method.HISTORY)
        match said.meaning:
            case Meaning.LIMITED:
                log.info("Slack asks to slow down", seconds=said.seconds, **known)
                self._schedule.hold(action.method, said.seconds)
            case Meaning.GONE:
                await self._gone(entry, action, said, known)
            case Meaning.CONTENT:
                log.warning("Slack refused the blocks; sending simpler ones", **known)
                self._simplify(action)
            case Meaning.CHANNEL if looking and said.error == "thread_not_found":
                await self._sender.looked(answer)  # with its root and all replies gone, ours are gone too
            case Meaning.CHANNEL:
                await self._give_up_in_words(entry, said, known)
            case _ if looking and said.error == "invalid_cursor":
                answer.search = Search()
            case _:
                entry.back_off(self._clock())
                entry.tries += 1
                log.error("showing an answer failed", attempt=entry.tries, exc_info=error, **known)
                if entry.tries >= _PATIENCE:
                    message.lost = True

    async def _gone(self, entry: Entry, action: Action, said: Refusal, known: dict[str, Any]) -> None:
        message = action.message
        if action.method is not Method.DELETE:
            message.lost = message.reposted
            message.reposted = True
        elif said.error != "message_not_found":  # it is there, and stays
            message.lost = not action.move
            message.moves += 100
            return
        await self._sender.forget(entry.answer, action)
        log.info("a message is gone", again=not message.lost, **known)

    def _simplify(self, action: Action) -> None:
        message, part = action.message, action.part
        if action.method is Method.UPLOAD:
            message.lost = True
        elif message.form == BLOCKS and part is not None and common(part) == part:
            message.form = SECTIONS
        elif message.form == SECTIONS and part is not None and worded(part) == part:
            message.form = PLAIN
        elif message.form < PLAIN:
            message.form += 1
        else:
            message.form, message.lost = HOPELESS, True
            log.error("Slack refuses even plain text; the answer is in the transcript", part=message.index)

    async def _give_up_in_words(self, entry: Entry, said: Refusal, known: dict[str, Any]) -> None:
        sentence = place_sentence(said.error)
        log.error("an answer cannot be shown", reason=sentence, **known)
        await self._give_up(entry, sentence)
