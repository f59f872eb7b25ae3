"""What Claude sends with `send_file`: from the worklet into the thread, once.

The tool waits inside the worklet for a word of ours. Slack's third step makes a file visible and cannot be undone, so
its id is stored before; whoever goes on after a crash asks Slack whether it is there.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.filestore import RENEWED, SentFile, SentFiles
from bot.markdown import clean, clip, escape
from bot.refusals import Meaning, place_sentence, refusal
from bot.tasks import Tasks
from bot.upload import put, share
from config.logging import bind, get_logger
from config.units import format_size
from sessions.errors import SessionNotFound, StoreUnavailable
from sessions.events import LifeEvent, Released, Settled
from sessions.manager import Sessions
from sessions.store import utcnow
from sessions.types import Session, SessionId, ThreadId, Turn, TurnId
from worklets.events import AgentEvent, ToolFinished, ToolStarted
from worklets.files import SEND_FILE, HandedOver, Outgoing

log = get_logger(__name__)

_POLLS = (0.1,) * 50 + (0.5,)  # seconds between two looks for the file; a permission may take its time
_PAUSES = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)  # between two tries with Slack; the last one again and again
_SWEEP = 30.0  # seconds between two looks for what nobody is about
_PATIENCE = timedelta(hours=24)  # for Slack to take a file
_UNSHARED = ("file_not_found", "file_deleted", "invalid_arguments")  # of an upload that Slack has forgotten
_SHARED = ("file_already_shared", "file_already_completed")


class _Taken(Exception):
    """Another process is about the file by now."""


@dataclass(slots=True)
class _Call:
    """A use of the tool. `over`: it waits no more, so nothing comes that is not there yet."""

    tool_id: str
    over: bool = False


class Couriers:
    """An async context manager that owns the tasks of all carrying; `observe` is an Observer.

    `outgoing(worklet)` is where that worklet hands over. `limit` in bytes of one file. `shown` is told of a thread that
    has a file now, before Claude goes on.
    """

    def __init__(
        self,
        sessions: Sessions,
        client: AsyncWebClient,
        store: SentFiles,
        outgoing: Callable[[str], Outgoing],
        *,
        limit: int,
        shown: Callable[[ThreadId], None] = lambda _: None,
        pauses: Sequence[float] = _PAUSES,
        sweep: float = _SWEEP,
    ) -> None:
        self._sessions, self._client, self._store, self._outgoing = sessions, client, store, outgoing
        self._limit, self._shown, self._pauses, self._sweep = limit, shown, pauses, sweep
        self._calls: dict[TurnId, dict[str, _Call]] = {}
        self._busy: set[tuple[TurnId, str]] = set()  # files that are being carried
        self._tasks = Tasks("files")

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start(self._look_around(), "sweep")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, error, trace)

    def observe(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        """Never blocks."""
        calls = self._calls.get(turn.id, {})
        match event:
            case ToolStarted(tool_id, name) if name == SEND_FILE and tool_id not in calls and self._tasks.open:
                call = self._calls.setdefault(turn.id, {})[tool_id] = _Call(tool_id)
                self._tasks.start(self._await(session, turn.id, call), "carry")
            case ToolFinished(tool_id) if tool_id in calls:
                calls[tool_id].over = True
            case Settled() | Released():
                for call in self._calls.pop(turn.id, {}).values():
                    call.over = True

    # ---- tasks ----

    async def _await(self, session: Session, turn_id: TurnId, call: _Call) -> None:
        """Until the tool has handed something over, or is over without."""
        outgoing, looks = self._outgoing(session.worklet), 0
        while True:
            over = call.over  # before the look: what the tool leaves, it leaves before it ends
            handed = await asyncio.to_thread(outgoing.look, call.tool_id)
            if handed is not None:
                return await self._carry(session.id, turn_id, call, handed)
            if over:
                return None
            await asyncio.sleep(_POLLS[min(looks, len(_POLLS) - 1)])
            looks += 1

    async def _look_around(self) -> None:
        """Goes on with what a process that died had begun."""
        while True:
            try:
                for turn_id, tool_id in await self._store.abandoned():
                    if tool_id not in self._calls.get(turn_id, {}):
                        turn = await self._sessions.turn(turn_id)
                        call = _Call(tool_id, over=True)
                        self._tasks.start(self._carry(turn.session_id, turn_id, call, None), "carry")
            except (StoreUnavailable, SessionNotFound) as error:
                log.debug("files that were left behind are looked for later", error=error.sentence())
            except Exception:
                log.exception("files that were left behind cannot be looked for")
            await asyncio.sleep(self._sweep)

    async def _carry(self, session_id: SessionId, turn_id: TurnId, call: _Call, handed: HandedOver | None) -> None:
        """Tries until Slack has taken the file, or has said no. Once for a file at a time."""
        key = turn_id, call.tool_id
        if key in self._busy:
            return
        self._busy.add(key)
        try:
            with bind(session=session_id, turn=turn_id, tool=call.tool_id):
                for pause in itertools.chain(self._pauses, itertools.repeat(self._pauses[-1])):
                    if await self._try_safely(session_id, turn_id, call, handed):
                        return
                    await asyncio.sleep(pause)
        finally:
            self._busy.discard(key)

    async def _try_safely(self, session_id: SessionId, turn_id: TurnId, call: _Call, handed: HandedOver | None) -> bool:
        try:
            return await self._try(session_id, turn_id, call, handed)
        except StoreUnavailable as error:
            log.debug("a file waits for the database", error=error.sentence())
            return False
        except _Taken:
            return False
        except Exception as error:  # noqa: BLE001 - each is weighed in one place
            return await self._failed(session_id, turn_id, call, handed, error)

    async def _try(self, session_id: SessionId, turn_id: TurnId, call: _Call, handed: HandedOver | None) -> bool:
        """True: there is nothing left to do here."""
        sent = await self._store.claim(turn_id, call.tool_id, handed)
        if sent is None or (not sent.mine and not sent.settled):
            return sent is None or call.over  # another process is about it; should it die, the sweep finds it
        session = await self._sessions.get(session_id)
        if not sent.settled:
            if session.thread.thread_ts is None:  # the root is being posted
                return False
            async with self._claimed_meanwhile(sent):
                await self._show(session, sent)
            await self._store.settle(sent, None)
            self._shown(session.thread)
            log.info("a file is in the thread", name=sent.name)
        await self._reply(session, call, sent.error)
        return True

    @asynccontextmanager
    async def _claimed_meanwhile(self, sent: SentFile) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEWED)
                with suppress(StoreUnavailable):
                    await self._store.renew(sent)

        renewing = asyncio.create_task(renew(), name="claim")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _show(self, session: Session, sent: SentFile) -> None:
        if sent.file_id is not None:
            try:
                if not await self._is_shared(session, sent.file_id):
                    await self._share(session, sent, sent.file_id)
            except SlackApiError as error:
                if refusal(error).error not in _UNSHARED:
                    raise
            else:
                return
        content = await asyncio.to_thread(self._outgoing(session.worklet).read, sent.tool_id, self._limit)
        masked = await asyncio.to_thread(self._sessions.masker(session).bytes_of_text, content)
        file_id = await put(self._client, sent.name, masked)
        if not await self._store.uploaded(sent, file_id):
            raise _Taken
        await self._share(session, sent, file_id)

    async def _share(self, session: Session, sent: SentFile, file_id: str) -> None:
        masker, thread = self._sessions.masker(session), session.thread
        title, comment = masker.text(sent.title or sent.name), masker.text(sent.comment)
        try:
            await share(self._client, thread.channel, thread.thread_ts, file_id, title, comment)
        except SlackApiError as error:
            if refusal(error).error not in _SHARED:
                raise

    async def _is_shared(self, session: Session, file_id: str) -> bool:
        try:
            answer = await self._client.files_info(file=file_id)
        except SlackApiError as error:
            if refusal(error).error in _UNSHARED:
                return False
            raise
        shares: dict[str, Any] = (answer.get("file") or {}).get("shares") or {}
        places = [place for kind in shares.values() for place in kind.get(session.thread.channel, ())]
        return any(place.get("thread_ts") == session.thread.thread_ts for place in places)

    async def _failed(
        self, session_id: SessionId, turn_id: TurnId, call: _Call, handed: HandedOver | None, error: Exception
    ) -> bool:
        """True: it will never be shown, and whoever waits for it knows."""
        said = refusal(error)
        sent = await self._claimed(turn_id, call, handed)
        if sent is None or not sent.mine:  # another process is about it, or was: what it says counts
            return False
        late = utcnow() - sent.created_at > _PATIENCE
        passes = said.meaning in (Meaning.LIMITED, Meaning.UNKNOWN) and not _is_final(error)
        if passes and not late:
            log.info("Slack did not take a file; trying again", error=said.error)
            return False
        log.warning("a file cannot be shown", error=said.error, exc_info=None if said.error else error)
        sentence = _sentence(error, self._limit)
        try:
            await self._store.settle(sent, sentence)
            session = await self._sessions.get(session_id)
        except StoreUnavailable:
            return False
        told = await self._reply(session, call, sentence)
        if not told or call.over:
            await self._tell(session, sent, sentence)
        return True

    async def _claimed(self, turn_id: TurnId, call: _Call, handed: HandedOver | None) -> SentFile | None:
        try:
            return await self._store.claim(turn_id, call.tool_id, handed)
        except StoreUnavailable:
            return None

    async def _reply(self, session: Session, call: _Call, error: str | None) -> bool:
        """Tells the tool. False: the worklet's directory is gone, or cannot be written."""
        outgoing = self._outgoing(session.worklet)
        try:
            await asyncio.to_thread(outgoing.reply, call.tool_id, error)
        except OSError as gone:
            log.debug("the tool cannot be told", error=str(gone))
            return False
        return True

    async def _tell(self, session: Session, sent: SentFile, sentence: str) -> None:
        """Claude has gone on: people are told in its place."""
        name = clip(clean(sent.name).replace("`", "'"), 200)
        text = f"⚠️ `{name}` could not be shown: {escape(sentence)}"
        try:
            await self._client.chat_postMessage(
                channel=session.thread.channel, thread_ts=session.thread.thread_ts, text=text
            )
        except Exception as error:  # noqa: BLE001 - where nothing can be written, nothing can be told
            log.warning("nobody can be told of a file", error=refusal(error).error)


def _is_final(error: Exception) -> bool:
    """What looks like a broken connection, and is none: the file cannot be read, or Slack refuses the upload itself."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in (400, 403, 413)
    return isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError))


def _sentence(error: Exception, limit: int) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "it is gone from the container."
    if isinstance(error, PermissionError):
        return "Flow may not read it; check the rights of FLOW_SHARE_DIR."
    if isinstance(error, aiohttp.ClientResponseError):
        return f"Slack does not take it (HTTP {error.status})."
    if isinstance(error, ValueError):
        return f"it is larger than {format_size(limit)}."
    said = refusal(error)
    if said.meaning is Meaning.CHANNEL:
        return place_sentence(said.error)
    if said.error == "missing_scope":
        return "the app lacks the scope files:write; paste manifest.yml again and reinstall it."
    return f"Slack does not take it ({said.error})."
