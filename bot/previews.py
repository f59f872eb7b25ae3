"""Previews in the thread: what Claude opens with `open_preview` is offered with a button.

The message names no address: whoever presses gets a link of their own, which only they see. The row is there before the
message, and a message that a crash prevented is posted later. Whoever posts has claimed the row; where somebody had
before, and nobody knows how it ended, the thread is looked through for the message.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self

from slack_bolt.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.markdown import clean, clip, escape
from bot.parts import Block, actions, button, fallback, section
from bot.refusals import Meaning, refusal
from bot.schedule import Allowance
from bot.tasks import Tasks
from config.logging import get_logger
from sessions.errors import SessionNotFound, StoreUnavailable
from sessions.events import LifeEvent, Released, Settled
from sessions.manager import Sessions
from sessions.previews import OPEN_SECONDS, Links, Preview, Previews, TooManyPreviews, wanted
from sessions.types import Session, SessionId, Turn, TurnId
from worklets.events import AgentEvent, ToolFinished, ToolStarted
from worklets.files import OPEN_PREVIEW

log = get_logger(__name__)

OPEN, CLOSE = "preview_open", "preview_close"
_EVENT = "flow_preview"  # type of the messages' metadata
_SWEEP = 30.0  # seconds between two looks for what nobody has posted
_PER_MINUTE, _BURST = 30, 3  # messages
_MOST_CALLS, _MOST_ANNOUNCED = 64, 64  # uses of the tool at a time: of one turn, and whose end is being noted
_PAGE, _PAGES = 200, 5  # of a thread that is looked through
_TOLD = 1_000  # sessions of which it is known that they were told
_GONE = "This preview is closed. Ask Claude in the thread to open it again."


class PreviewOffers:
    """An async context manager that owns the tasks; `observe` is an Observer."""

    def __init__(
        self,
        sessions: Sessions,
        client: AsyncWebClient,
        previews: Previews,
        links: Links,
        sweep: float = _SWEEP,
        *,
        bot_id: str,
    ) -> None:
        self._sessions, self._client, self._sweep, self._bot_id = sessions, client, sweep, bot_id
        self.previews, self.links = previews, links
        self._asked: dict[TurnId, dict[str, dict[str, Any]]] = {}  # what the tool was given, by tool use
        self._announcing = 0
        self._full: set[SessionId] = set()  # sessions that were told that they have too many
        self._fresh = asyncio.Event()
        self._pace = Allowance(_PER_MINUTE, _BURST)
        self._tasks = Tasks("previews")

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
        asked = self._asked.get(turn.id, {})
        match event:
            case ToolStarted(tool_id, name, given) if name == OPEN_PREVIEW:
                fields = wanted(given)
                if isinstance(fields, dict) and len(asked) < _MOST_CALLS:
                    self._asked.setdefault(turn.id, {})[tool_id] = fields
            case ToolFinished(tool_id, ok) if tool_id in asked:
                fields = asked.pop(tool_id)
                if ok and self._tasks.open and self._announcing < _MOST_ANNOUNCED:
                    self._announcing += 1
                    self._tasks.start(self._announced(session, tool_id, fields), "announce")
                elif ok:
                    log.warning("a preview is not offered: there are too many at a time", session=session.id)
            case Settled() | Released():
                self._asked.pop(turn.id, None)

    async def _announced(self, session: Session, tool_id: str, fields: dict[str, Any]) -> None:
        try:
            await self._announce(session, tool_id, fields)
        finally:
            self._announcing -= 1

    async def _announce(self, session: Session, tool_id: str, fields: dict[str, Any]) -> None:
        while True:
            try:
                await self.previews.announce(session.id, **fields, tool_id=tool_id)
            except StoreUnavailable:
                await asyncio.sleep(1.0)
            except TooManyPreviews as error:
                if session.id not in self._full:
                    if len(self._full) >= _TOLD:
                        self._full.clear()
                    self._full.add(session.id)
                    log.warning("a preview is not offered", session=session.id, error=error.sentence())
                    self._sessions.remark(session.id, f"{error.sentence()} Then ask me to open the new one again.")
                return
            else:
                self._full.discard(session.id)
                self._fresh.set()
                return

    async def _look_around(self) -> None:
        """One message after the other."""
        while True:
            self._fresh.clear()
            try:
                for preview in await self.previews.unposted():
                    await self._offer(preview.id)
            except StoreUnavailable as error:
                log.debug("previews are offered later", error=error.sentence())
            except Exception:
                log.exception("previews could not be offered")
            try:
                async with asyncio.timeout(self._sweep):
                    await self._fresh.wait()
            except TimeoutError:
                pass

    async def _offer(self, preview_id: str) -> None:
        while True:
            pause = await self._post(preview_id)
            if not pause:
                return
            await asyncio.sleep(pause)

    async def _post(self, preview_id: str) -> float:
        """Posts the message that offers it, if nobody else does. Seconds after which to try again; 0: it is over."""
        if (due := self._pace.ready_at() - time.monotonic()) > 0:
            return due
        claimed = await self.previews.claim(preview_id)
        if claimed is None:
            return 0.0
        preview, tried = claimed
        try:
            session = await self._sessions.get(preview.session_id)
        except SessionNotFound:
            return 0.0
        if session.thread.thread_ts is None:  # the root is being posted
            if not tried:
                await self.previews.unclaim(preview.id)
            return 0.0
        self._pace.spend(time.monotonic())
        try:
            ts = await self._find(session, preview) if tried else None
            tried = False
            if ts is None:
                ts = await self._say(session, preview)
        except Exception as error:  # noqa: BLE001 - read by `refusal`
            return await self._refused(session, preview, error, unknown=tried)
        await self.previews.posted(preview.id, ts)
        log.info("a preview is offered", preview=preview.id, port=preview.port, session=session.id)
        return 0.0

    async def _say(self, session: Session, preview: Preview) -> str:
        blocks = offer(preview, self._sessions.masker(session).text(preview.title))
        assert session.thread.thread_ts is not None
        said = await self._client.chat_postMessage(
            channel=session.thread.channel, thread_ts=session.thread.thread_ts, blocks=blocks,
            text=fallback(blocks), metadata={"event_type": _EVENT, "event_payload": {"id": preview.id}},
        )  # fmt: skip
        return str(said["ts"])

    async def _find(self, session: Session, preview: Preview) -> str | None:
        """The message that offers it, where it was posted and nobody noted it."""
        oldest = f"{max(0, int(preview.created_at.timestamp()) - 300)}.000000"  # our clock may be ahead of Slack's
        cursor, thread_ts = None, session.thread.thread_ts
        assert thread_ts is not None
        for _ in range(_PAGES):
            page = await self._client.conversations_replies(
                channel=session.thread.channel, ts=thread_ts, oldest=oldest, limit=_PAGE, cursor=cursor,
                include_all_metadata=True,
            )  # fmt: skip
            for message in page.get("messages") or []:
                told = message.get("metadata") or {}
                ours = told.get("event_type") == _EVENT and message.get("bot_id") == self._bot_id
                if ours and (told.get("event_payload") or {}).get("id") == preview.id:
                    return str(message["ts"])
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                break
        return None

    async def _refused(self, session: Session, preview: Preview, error: Exception, *, unknown: bool) -> float:
        """`unknown`: an earlier message may be there, which nobody has looked for to the end."""
        said = refusal(error)
        match said.meaning:
            case Meaning.LIMITED:
                if not unknown:
                    await self.previews.unclaim(preview.id)
                return said.seconds
            case Meaning.UNKNOWN | Meaning.TOKEN:
                if said.meaning is Meaning.TOKEN and not unknown:
                    await self.previews.unclaim(preview.id)
                log.warning("a preview is offered later", error=said.error, session=session.id)
            case _:
                await self.previews.unclaim(preview.id, failed=said.error)
                log.warning("a preview cannot be offered", error=said.error, session=session.id)
        return 0.0


def register(app: AsyncApp, door: Door) -> None:
    async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        preview_id, user_id = str(action.get("value", "")), str(body["user"]["id"])
        act = _open if action.get("action_id") == OPEN else _close
        door.after.start(_said(door, act, preview_id, user_id, respond), "preview")

    async def opened(ack: Ack) -> None:
        await ack()

    for action_id in (OPEN, CLOSE):
        app.action(action_id)(pressed)
    app.action(f"{OPEN}_link")(opened)  # Slack tells of a link that was followed as of a button


async def _said(door: Door, act: Any, preview_id: str, user_id: str, respond: Respond) -> None:
    try:
        await act(door, preview_id, user_id, respond)
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        await respond(text=sentence_for(error, "a preview"), response_type="ephemeral", replace_original=False)


async def _open(door: Door, preview_id: str, user_id: str, respond: Respond) -> None:
    offers = door.previews
    preview = await offers.previews.get(preview_id) if offers is not None else None
    if offers is None or preview is None:
        await respond(text=_GONE, response_type="ephemeral", replace_original=False)
        return
    link = button(f"{OPEN}_link", "Open in the browser", preview.id, "primary") | {
        "url": offers.links.link(preview, user_id)
    }
    minutes = OPEN_SECONDS // 60
    blocks = [section(f"This link is yours alone, and opens within {minutes} minutes."), actions(link)]
    await respond(text="Your link", blocks=blocks, response_type="ephemeral", replace_original=False)


async def _close(door: Door, preview_id: str, user_id: str, respond: Respond) -> None:
    offers = door.previews
    preview = await offers.previews.close(preview_id) if offers is not None else None
    log.info("a preview is closed", preview=preview_id, by=user_id)
    name = f"localhost:{preview.port}" if preview is not None else "It"
    text = f"{name} was closed by <@{user_id}>."
    await respond(text=text, blocks=[section(text)], replace_original=True)


def offer(preview: Preview, title: str) -> list[Block]:
    """The message of a preview. `title` is Claude's, without secrets."""
    name = clip(escape(clean(title)), 150).replace("*", "") or "A server"
    return [
        section(f"*{name}* runs at `localhost:{preview.port}` in the container."),
        actions(
            button(OPEN, "Open preview", preview.id, "primary"),
            button(CLOSE, "Close preview", preview.id),
        ),
    ]
