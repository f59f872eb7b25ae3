"""One step towards what an answer should show: one call to Slack, and what came of it noted down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bot.answer import STREAMED, Action, Answer, Message, Search
from bot.delivery import Delivery, file_name
from bot.parts import FILE, ROOT, Part
from bot.schedule import Clock, Method
from bot.store import MessageStore
from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.types import SessionId

log = get_logger(__name__)

_TITLE = "The whole answer"


class NotHeld(Exception):
    """Another process may be showing the session by now: nothing was sent."""


class PostedLate(Exception):
    """A message stands at `ts`, and another process may have been showing the session before it came."""

    def __init__(self, ts: str) -> None:
        self.ts = ts


class Sender:
    """`opened(answer)` is awaited whenever the root of an answer's thread may be known now."""

    def __init__(
        self,
        delivery: Delivery,
        store: MessageStore,
        *,
        may_show: Callable[[SessionId], bool],
        opened: Callable[[Answer], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._delivery = delivery
        self._store = store
        self._may_show = may_show
        self._opened = opened
        self._clock = clock

    async def load(self, answer: Answer) -> None:
        """What the table knows of the answer's messages; a table that cannot be read means looking in Slack."""
        try:
            answer.load(await self._store.of_turn(answer.turn_id))
        except StoreUnavailable as error:
            log.warning("cannot read which messages are posted; looking in Slack", error=str(error))
            answer.assume_posted()
        except Exception:
            log.exception("cannot read which messages are posted; looking in Slack")
            answer.assume_posted()
        await self._opened(answer)

    async def do(self, answer: Answer, action: Action) -> None:
        """Raises NotHeld, PostedLate, what the client raises; StoreUnavailable when a post could not be noted first."""
        self._check(answer)
        message, part = action.message, action.part
        match action.method:
            case Method.HISTORY | Method.REPLIES:
                await self._look_up(answer, None if action.method is Method.HISTORY else answer.thread_ts)
            case Method.UPLOAD:
                await self._attach(answer, message)
            case Method.DELETE:
                assert message.ts is not None
                if message.stream is not None and answer.native is not None:  # Slack deletes no open stream
                    await answer.native.stop(self._delivery, answer, action)
                await self._delivery.delete(answer.channel, message.ts)
                if self.holds(answer):
                    await self.forget(answer, action)
            case Method.POST | Method.START:
                assert part is not None
                await self._post(answer, action, part)
            case Method.APPEND:
                assert answer.native is not None
                await answer.native.append(self._delivery, answer, action)
                self._streamed(action)
            case Method.STOP:
                assert answer.native is not None
                await answer.native.stop(self._delivery, answer, action)
            case Method.EDIT:
                assert part is not None
                assert message.ts is not None
                await self._delivery.edit(answer.channel, message.ts, part)
                if self.holds(answer):
                    await self._shown(answer, action, part)

    def holds(self, answer: Answer) -> bool:
        """No other process can be showing it."""
        return not answer.released and self._may_show(answer.session_id)

    def _check(self, answer: Answer) -> None:
        if not self.holds(answer):
            raise NotHeld

    async def _post(self, answer: Answer, action: Action, part: Part) -> None:
        """Nothing is posted that the table does not know of: whoever goes on after a crash would post it again."""
        message = action.message
        if not message.intended:
            first = await self._store.intend(
                answer.turn_id, message.index, answer.channel, answer.view.opens_at(message.index)
            )
            message.intended = True
            if not first:  # a process that had the session before was about to post it, after we had read the table
                message.unknown = True
                return
            self._check(answer)
        thread = None if message.index == ROOT else answer.thread_ts
        if action.method is Method.START and answer.native is not None:
            ts = await answer.native.start(self._delivery, answer, action)
        else:
            ts = await self._delivery.post(answer.channel, thread, answer.turn_id, part)
        if not self.holds(answer):
            message.unknown, message.stream = True, None
            await self._remember(self._store.posted(answer.turn_id, message.index, ts))
            raise PostedLate(ts)
        message.ts = ts
        await self._opened(answer)  # first: from now on people can reply there
        if message.stream is not None:
            self._streamed(action)
            await self._note(answer, message, False)
        else:
            await self._shown(answer, action, part)

    def _streamed(self, action: Action) -> None:
        """What a stream shows is no look that an edit could have made."""
        message = action.message
        message.shown, message.changed_at = STREAMED, self._clock()
        message.words = message.stream is not None and bool(message.stream.sent)

    async def _attach(self, answer: Answer, message: Message) -> None:
        """The whole answer as a file, once: its id is noted down before anybody can see it."""
        rows = {row.part: row for row in await self._store.of_turn(answer.turn_id)}
        if FILE not in rows:
            await self._store.intend(answer.turn_id, FILE, answer.channel)
        file_id = rows[FILE].digest if FILE in rows else None
        text = answer.view.long_text or ""
        if file_id is None or not await self._delivery.has_file(answer.channel, answer.thread_ts, file_id):
            if file_id is None:
                file_id = await self._upload(answer, text)
            self._check(answer)
            if not await self._delivery.share_file(answer.channel, answer.thread_ts, file_id, _TITLE):
                file_id = await self._upload(answer, text)
                self._check(answer)
                await self._delivery.share_file(answer.channel, answer.thread_ts, file_id, _TITLE)
        message.ts = file_id
        await self._remember(self._store.posted(answer.turn_id, FILE, file_id))

    async def _upload(self, answer: Answer, text: str) -> str:
        file_id = await self._delivery.put_file(file_name(answer.turn_id), text)
        await self._store.uploaded(answer.turn_id, FILE, file_id)
        return file_id

    async def _look_up(self, answer: Answer, thread_ts: str | None) -> None:
        search = answer.search
        found, search.cursor = await self._delivery.find(
            answer.channel, thread_ts, answer.turn_id, answer.asked_ts, search.cursor
        )
        search.found = found | search.found
        if not self.holds(answer):
            answer.search = Search()  # another process may post or delete meanwhile
        elif search.cursor is None:
            await self.looked(answer)

    async def looked(self, answer: Answer) -> None:
        """The look-up is over: what it did not find is not there."""
        answer.adopt(answer.search.found)
        for message in answer.messages.values():
            if message.ts is not None:
                await self._note(answer, message, message.final)
        await self._opened(answer)

    async def _shown(self, answer: Answer, action: Action, part: Part) -> None:
        message = action.message
        assert message.ts is not None
        first = message.shown is None
        message.shown, message.changed_at, message.words = part.digest, self._clock(), part.words
        if first or part.final != message.final or part.final:
            message.final = part.final
            await self._note(answer, message, part.final)

    async def _note(self, answer: Answer, message: Message, final: bool) -> None:
        ts = message.ts
        assert ts is not None
        writing = self._store.shown(answer.turn_id, message.index, ts, message.shown, final, message.noted)
        if await self._remember(writing):
            message.noted = ts

    async def forget(self, answer: Answer, action: Action) -> None:
        """The message is not there any more."""
        message = action.message
        ts = message.ts
        message.ts, message.shown, message.intended, message.final = None, None, False, False
        if await self._remember(self._store.forget(answer.turn_id, message.index, ts)):
            message.noted = None

    async def _remember(self, writing: Awaitable[object]) -> bool:
        """An edit or a deletion that is not noted down is done again after a restart, which changes nothing."""
        try:
            await writing
        except StoreUnavailable as error:
            log.debug("cannot note which messages are posted", error=str(error))
            return False
        return True
