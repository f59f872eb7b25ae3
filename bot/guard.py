"""Who may, at every door: messages, commands, buttons, modals, shortcuts, reactions, the home tab.

A verdict that is remembered is given at once. Without one, what came in is kept in the database and acknowledged, and
goes its way when Slack has said who it was. Whoever may not is told privately; nothing of it shows to others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4
from weakref import WeakValueDictionary

from slack_bolt.async_app import AsyncApp, AsyncBoltRequest
from slack_bolt.context.respond.async_respond import AsyncRespond
from slack_bolt.response import BoltResponse

from bot.access import Reason, Verdict
from bot.errors import sentence_for
from bot.held import Held, HeldStore, Kind
from bot.inbound import EmptyMention, Inbound, Said, StopWord, read_message
from bot.markdown import clip
from bot.parts import fallback, section
from bot.plaintext import clip_code, preformatted
from bot.refusals import refusal
from config.errors import FlowError
from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.types import Prompt, ThreadId

if TYPE_CHECKING:
    from bot.door import Door

log = get_logger(__name__)

_PRESS_SECONDS = 60.0  # a press that had to wait longer is dropped: by then it was pressed again, or given up
_WRONG_ROOM, _TYPED_ROOM = 1_000, 9_000  # units of what is wrong with a modal, and of what was typed into it
_REMIND = 3_600.0  # seconds between two words to somebody who goes on writing in a thread, but not to us
_AGAIN = 5.0  # seconds, when the database does not serve
#: The only reaction that does anything; people use all the others among themselves.
_STOP_SIGN = "octagonal_sign"

_ADMITTED = "admitted"  # in the context of a request that was held

#: Sees to a message's event, whose author may.
Take: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Heard: TypeAlias = Prompt | EmptyMention | StopWord | Said


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants something, and where. `channel` None: in the app's home, or nowhere."""

    user_id: str
    channel: str | None
    kind: Kind


def asker_of(body: Mapping[str, Any]) -> Asker | None:
    """Of a payload of Slack's. None: messages, which `admits` sees to, and what nobody in particular does."""
    if "command" in body:
        return Asker(str(body["user_id"]), str(body["channel_id"]), "command")
    if (event := body.get("event")) is not None:
        return _of_event(event)
    user = str((body.get("user") or {}).get("id") or "")
    if not user or body.get("type") in ("view_closed", "block_suggestion"):
        return None
    channel = (body.get("channel") or {}).get("id") or (body.get("container") or {}).get("channel_id")
    return Asker(user, str(channel) if channel else None, "press")


def _of_event(event: Mapping[str, Any]) -> Asker | None:
    user, kind = event.get("user"), event.get("type")
    if not isinstance(user, str):
        return None
    if kind == "reaction_added":
        item = event.get("item") or {}
        return Asker(user, item.get("channel"), "press") if event.get("reaction") == _STOP_SIGN else None
    if kind in ("app_home_opened", "agent_session_stopped"):
        return Asker(user, event.get("channel"), "press")
    return None


class Guard:
    """One for each door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.take: Take | None = None
        self._app: AsyncApp | None = None
        self._store = HeldStore(door.sessions.store.db)
        self._busy: dict[str, bool] = {}  # people whose things are being seen to; True: there may be more
        self._keeping: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # behind whom something is stored
        self._opening: dict[tuple[str, str], str] = {}  # threads of which something waits, and behind whom
        self._reminded: dict[tuple[str, str], float] = {}

    def register(self, app: AsyncApp) -> None:
        """Before any listener."""
        self._app = app
        app.middleware(self._middleware)
        self._door.when_connected(self.resume)

    # ---- messages ----------------------------------------------------------------------------------------------------

    async def admits(self, event: dict[str, Any], asked: Inbound, *, late: bool) -> bool:
        """Whether the message's author may. False: the person is told, or the message is kept until it is known.

        `late`: it was read from the conversation; then nobody is told. Raises StoreUnavailable.
        """
        if asked is None:
            return True
        user_id = asked.user_id
        verdict = self._known(user_id, asked.thread.channel)
        if isinstance(asked, Said) and asked.author is not None:  # an app speaks: only the place may forbid it
            return verdict is None or verdict.reason is not Reason.CHANNEL
        behind = None if _is_called(asked) else await self._behind(asked.thread)
        if verdict is not None and verdict.allowed and behind is None:
            return True
        if not _is_called(asked) and behind is None and await self._door.sessions.find(asked.thread) is None:
            return False  # people among themselves
        if verdict is not None and not verdict.allowed:
            if not late:
                self._tell(asked, verdict)
            return False
        name = f"{event.get('type', 'message')}:{asked.thread.channel}:{event.get('ts')}"
        await self._keep(name, Asker(user_id, asked.thread.channel, "message"), event, asked.thread.thread_ts, behind)
        return False

    async def _behind(self, thread: ThreadId) -> str | None:
        """Who called Claude into a thread and is not let in yet: what is said there meanwhile comes after that."""
        if thread.thread_ts is None:
            return None
        if opening := self._opening.get((thread.channel, thread.thread_ts)):
            return opening
        if not self._busy and self._door.sessions.store.db.exclusive:  # else another process may have kept the call
            return None
        behind = await self._store.first_in(thread.channel, thread.thread_ts)
        return behind if behind is not None and await self._door.sessions.find(thread) is None else None

    async def admits_edit(self, event: dict[str, Any], thread: ThreadId) -> bool:
        """Whether whoever edited or deleted an own message may."""
        message = event.get("message") or {}
        before = event.get("previous_message") or {}
        user_id = message.get("user") or before.get("user")
        if not isinstance(user_id, str):
            return True
        verdict = self._known(user_id, thread.channel)
        if verdict is not None:
            return verdict.allowed
        if await self._door.sessions.find(thread) is None:
            return True  # it is remembered for a message that may come, and changes nothing else
        await self._keep(
            f"{event.get('subtype')}:{thread.channel}:{event.get('event_ts') or event.get('ts')}",
            Asker(user_id, thread.channel, "message"),
            event,
        )
        return False

    def _tell(self, asked: Heard, verdict: Verdict) -> None:
        """Once for each message to us; for others in a thread of ours once in a while."""
        door, thread, user_id = self._door, asked.thread, asked.user_id
        if isinstance(asked, Said):
            return
        if not _is_called(asked):
            last, now = self._reminded.get((user_id, thread.channel)), door.now()
            if last is not None and now - last < _REMIND:
                return
            self._reminded[user_id, thread.channel] = now
        source = asked.source_id if isinstance(asked, Prompt | StopWord) else f"{thread} {user_id}"
        if not door.acted.first(f"refused {source}"):
            return
        log.info("refused a message", by=user_id, channel=thread.channel, reason=verdict.reason)
        at_top = isinstance(asked, Prompt) and thread.thread_ts == asked.ts
        here = ThreadId(thread.team, thread.channel, None) if at_top else thread
        door.after.start(door.whisper(here, user_id, door.access.sentence(verdict)), "refusal")

    # ---- everything else ---------------------------------------------------------------------------------------------

    async def _middleware(
        self, body: dict[str, Any], context: dict[str, Any], next_: Callable[[], Awaitable[BoltResponse]]
    ) -> BoltResponse:
        asker = asker_of(body)
        if asker is None or context.get(_ADMITTED):
            return await next_()
        verdict = self._known(asker.user_id, asker.channel)
        if verdict is not None and verdict.allowed:
            return await next_()
        if verdict is not None:
            return self._refuse(asker, body, verdict)
        if self._was_welcome(asker):
            return await next_()
        try:
            await self._keep(str(body.get("event_id") or body.get("trigger_id") or uuid4()), asker, body)
        except FlowError as error:
            if asker.kind != "command":
                raise
            return _acknowledged({"text": sentence_for(error, "/flow")})
        return _acknowledged()

    def _was_welcome(self, asker: Asker) -> bool:
        """Of a person who was let in within the hour: a form that is open must not close without its answer."""
        access, after = self._door.access, self._door.after
        verdict = access.known(asker.user_id, asker.channel, lately=True)
        if verdict is None or not verdict.allowed or self._waits(asker.user_id):
            return False
        after.start(self._refresh(asker), "who may")
        return True

    async def _refresh(self, asker: Asker) -> None:
        verdict = await self._door.access.decide(asker.user_id, asker.channel)
        if not verdict.allowed:
            log.info("somebody may no longer use Flow", by=asker.user_id, reason=verdict.reason)

    def _refuse(self, asker: Asker, body: dict[str, Any], verdict: Verdict) -> BoltResponse:
        log.info("refused", by=asker.user_id, channel=asker.channel, reason=verdict.reason, type=body.get("type"))
        sentence = self._door.access.sentence(verdict)
        if asker.kind == "command":
            return _acknowledged({"text": sentence, "response_type": "ephemeral"})
        if body.get("type") == "view_submission":
            return _acknowledged({"response_action": "update", "view": _modal(sentence)})
        self._door.after.start(self._say(asker, body, sentence), "refusal")
        return _acknowledged()

    async def _say(self, asker: Asker, body: Mapping[str, Any], sentence: str) -> None:
        """By the private way that the payload brings along."""
        client, view, event = self._door.client, body.get("view") or {}, body.get("event") or {}
        try:
            if url := body.get("response_url"):
                await AsyncRespond(response_url=url)(text=sentence, response_type="ephemeral", replace_original=False)
            elif view.get("type") == "home" or event.get("type") == "app_home_opened":
                self._door.homes.show(asker.user_id, sentence)
            elif trigger := body.get("trigger_id"):
                await client.views_open(trigger_id=trigger, view=_modal(sentence))
            elif asker.channel:
                await client.chat_postEphemeral(channel=asker.channel, user=asker.user_id, text=sentence)
        except Exception as error:  # noqa: BLE001 - the refusal stands, said or not
            log.warning("cannot tell a person that they may not", by=asker.user_id, error=refusal(error).error)

    # ---- what waits for a verdict ------------------------------------------------------------------------------------

    def _known(self, user_id: str, channel: str | None) -> Verdict | None:
        """None also while older things of the person wait: what they asked keeps its order."""
        verdict = self._door.access.known(user_id, channel)
        return None if verdict is not None and verdict.allowed and self._waits(user_id) else verdict

    def _waits(self, user_id: str) -> bool:
        """Something of the person does, or is being stored to wait."""
        return user_id in self._busy or user_id in self._keeping

    async def _keep(
        self,
        name: str,
        asker: Asker,
        body: dict[str, Any],
        thread_ts: str | None = None,
        behind: str | None = None,
    ) -> None:
        at, behind = datetime.fromtimestamp(self._door.now(), UTC), behind or asker.user_id
        keeping = self._keeping.setdefault(behind, asyncio.Lock())
        if thread_ts is not None and asker.channel is not None:  # noted before anything is awaited
            self._opening.setdefault((asker.channel, thread_ts), behind)
        async with keeping:  # one after the other: what comes behind another must not be let in before that is stored
            await self._store.keep(Held(name, asker.user_id, asker.channel, asker.kind, body, at, thread_ts, behind))
        self._see_to(behind)

    def resume(self) -> None:
        """Sees to what was kept before a restart."""
        if self._door.after.open:
            self._door.after.start(self._resume(), "what was held")

    async def _resume(self) -> None:
        for user_id in await self._store.people():
            self._see_to(user_id)

    def _see_to(self, user_id: str) -> None:
        if user_id in self._busy:
            self._busy[user_id] = True
        elif self._door.after.open:
            self._busy[user_id] = False
            self._door.after.start(self._release(user_id), "who may")

    async def _release(self, user_id: str) -> None:
        """One after the other, in the order in which they came."""
        try:
            while True:
                try:
                    self._busy[user_id] = False
                    for one in await self._store.behind(user_id):
                        await self._release_one(one)
                    if not self._busy[user_id]:
                        return
                except StoreUnavailable as error:
                    log.warning("what is held waits on", error=error.sentence())
                    await asyncio.sleep(_AGAIN)
        finally:
            del self._busy[user_id]
            if user_id not in self._keeping:  # what is being stored is seen to after this
                self._opening = {place: behind for place, behind in self._opening.items() if behind != user_id}

    async def _release_one(self, one: Held) -> None:
        verdict = await self._door.access.decide(one.user_id, one.channel)
        asker = Asker(one.user_id, one.channel, one.kind)
        if not verdict.allowed:
            if await self._store.drop(one.id):
                await self._refuse_held(one, asker, verdict)
            return
        try:
            if one.kind == "message":
                assert self.take is not None
                await self.take(one.body)
            else:
                await self._dispatch(one)
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("cannot take what was held", id=one.id)
        await self._store.drop(one.id)

    async def _refuse_held(self, one: Held, asker: Asker, verdict: Verdict) -> None:
        if one.kind != "message":
            log.info("refused", by=asker.user_id, channel=asker.channel, reason=verdict.reason)
            await self._say(asker, one.body, self._door.access.sentence(verdict))
            return
        asked = read_message(one.body, self._door.me)
        if asked is not None:
            self._tell(asked, verdict)

    async def _dispatch(self, one: Held) -> None:
        """As if it came in now. A command's answer goes where its acknowledgement would have stood."""
        assert self._app is not None
        late = datetime.fromtimestamp(self._door.now(), UTC) - one.at > timedelta(seconds=_PRESS_SECONDS)
        sent = one.body.get("type") == "view_submission"  # somebody typed it, and it has closed: it is not dropped
        if one.kind == "press" and late and not sent:
            log.info("a press waited too long", by=one.user_id)
            return
        request = AsyncBoltRequest(body=one.body, mode="socket_mode", context={_ADMITTED: True})
        response = await self._app.async_dispatch(request)
        url = one.body.get("response_url")
        said = json.loads(response.body) if response.body and response.body.startswith("{") else response.body
        if one.kind == "command" and url and said:
            answer = said if isinstance(said, dict) else {"text": said}
            await AsyncRespond(response_url=url)({"response_type": "ephemeral", **answer})
        elif sent and isinstance(said, dict) and (errors := said.get("errors")):
            await self._say_what_is_wrong(one, errors)

    async def _say_what_is_wrong(self, one: Held, errors: Mapping[str, str]) -> None:
        """Of a modal that has closed: in the person's own conversation with the app, with what was typed."""
        view = one.body.get("view") or {}
        values = [each for block in (view.get("state") or {}).get("values", {}).values() for each in block.values()]
        typed = "\n".join(str(each["value"]) for each in values if each.get("value"))
        blocks = [section(f"I could not take what you sent in. {clip(' '.join(errors.values()), _WRONG_ROOM)}")]
        if typed.strip():
            blocks.append(preformatted(clip_code(typed, _TYPED_ROOM)))
        try:
            await self._door.client.chat_postMessage(channel=one.user_id, text=fallback(blocks), blocks=blocks)
        except Exception as error:  # noqa: BLE001 - nobody is left to tell
            log.warning("cannot tell a person what is wrong with a modal", by=one.user_id, error=refusal(error).error)


def _is_called(asked: Heard) -> bool:
    """It is for us, whatever thread it is in."""
    match asked:
        case Prompt(starts=starts):
            return starts
        case EmptyMention():
            return True
        case StopWord(called=called):
            return called
    return False


def _acknowledged(body: dict[str, Any] | None = None) -> BoltResponse:
    return BoltResponse(status=200, body=body if body is not None else "")


def _modal(sentence: str) -> dict[str, Any]:
    title = {"type": "plain_text", "text": "Flow"}
    return {"type": "modal", "title": title, "blocks": [section(sentence)]}
