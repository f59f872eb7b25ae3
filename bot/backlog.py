"""What a thread said before Claude was called into it."""

from __future__ import annotations

from typing import Any

from bot.inbound import Identity, Said, said_by
from bot.people import People
from bot.reading import Reader
from bot.refusals import refusal
from config.logging import get_logger
from sessions.manager import Sessions
from sessions.types import Aside, Session, Turn

log = get_logger(__name__)

_MOST = 100  # messages, the newest before the call
_LETTERS = 40_000  # of all of them
_LETTERS_EACH = 4_000


class Backlog:
    def __init__(self, sessions: Sessions, reader: Reader, people: People, me: Identity) -> None:
        self._sessions = sessions
        self._reader = reader
        self._people = people
        self._me = me

    async def collect(self, session: Session, turn: Turn) -> None:
        """Hands over what stands in the thread before the turn's message. Where Slack gives nothing, nothing.

        The caller sets a time limit. Raises StoreUnavailable.
        """
        thread = session.thread
        if thread.thread_ts is None or turn.ts <= thread.thread_ts:
            return
        try:
            read = await self._reader.replies(thread.channel, thread.thread_ts, latest=turn.ts)
            asides = await self._asides(session, turn, read.messages)
        except Exception as error:  # noqa: BLE001 - the question is answered without, as well as can be
            log.warning("cannot read what the thread said before", session=session.id, error=refusal(error).error)
            return
        await self._sessions.overheard(asides)

    async def _asides(self, session: Session, turn: Turn, messages: list[dict[str, Any]]) -> list[Aside]:
        asides: list[Aside] = []
        left = _LETTERS
        before = [message for message in messages if str(message["ts"]) < turn.ts]
        for message in reversed(before[-_MOST:]):
            said = said_by({**message, "channel": session.thread.channel}, session.thread, self._me)
            if said is not None and left > 0:
                aside = await as_aside(self._people, said, min(left, _LETTERS_EACH))
                left -= len(aside.text)
                asides.append(aside)
        return asides[::-1]


async def as_aside(people: People, said: Said, most: int = _LETTERS_EACH) -> Aside:
    """`most`: letters that are kept of it."""
    text = await people.readable(said.markup)
    author = said.author if said.author is not None else await people.name(said.user_id)
    return Aside(said.thread, said.source_id, said.ts, said.user_id, author, text[:most])
