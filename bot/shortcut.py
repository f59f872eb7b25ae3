"""`/flow new`, the shortcuts *New session* and *Ask Flow about this*: a modal, and the session that it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Ack, Door
from bot.errors import sentence_for
from bot.modals import open_modal
from bot.newmodal import KNOWN, MESSAGE, NEW, START, About, Start, about_message, read_start, start_modal
from bot.parts import Block
from bot.refusals import refusal
from bot.repositories import script_choices
from bot.templating import from_template
from config.logging import get_logger
from sessions.brought import bring
from sessions.templates import TemplateError
from sessions.types import Prompt, Session, ThreadId
from worklets.startup import Listing

log = get_logger(__name__)

_PATIENCE = 1.2  # seconds to read a thread: the submission waits for its acknowledgement
_MOST = 100  # messages of it
_TYPED = 200  # characters of a search
_LETTERS = 30_000  # of them all
_NEWER = (
    "This thread has a session already; a repository or a template can only be given to a new one. Choose another "
    "place."
)
_UNKNOWN = "I cannot find out yet whether you may use me there. Please send this in again in a minute."
_UNREAD = "I cannot read this thread: invite me there with /invite, or bring only the message along."


class _Unread(Exception):
    """What the session is to be about cannot be had."""


def register(app: AsyncApp, door: Door) -> None:
    async def message(ack: Ack, body: dict[str, Any]) -> None:
        await ack()
        open_start(door, body, about_message(body), None)

    async def new(ack: Ack, body: dict[str, Any]) -> None:
        await ack()
        open_start(door, body, None, None)

    async def submitted(ack: Ack, body: dict[str, Any], view: dict[str, Any]) -> None:
        try:
            errors = await start(door, view, str(body["user"]["id"]))
        except Exception as error:  # noqa: BLE001 - worded for the person who submitted it
            errors = {"text": sentence_for(error, "starting a session from a modal")}
        if errors:
            await ack(response_action="errors", errors=errors)
        else:
            await ack()

    async def searched(ack: Ack, body: dict[str, Any]) -> None:
        """Who sees the modal was let in; who is not any more sees nothing, since there is nowhere to say so."""
        verdict = door.access.known(str(body["user"]["id"]), None, lately=True)
        if door.catalog is None or (verdict is not None and not verdict.allowed):
            await ack(options=[])
        else:
            await ack(options=await door.catalog.search.options(str(body.get("value") or "")[:_TYPED]))

    app.options(KNOWN)(searched)
    app.shortcut(MESSAGE)(message)
    app.shortcut(NEW)(new)
    app.view(START)(submitted)


def open_start(
    door: Door, body: dict[str, Any], about: About | None, channel: str | None, template: str | None = None
) -> None:
    """Opens the modal after the acknowledgement. `body`: of a command or a shortcut, for its trigger.

    `template`: the id of the one that is chosen at first.
    """
    user = str(body.get("user_id") or body["user"]["id"])
    here = channel or (about.channel if about else None)

    async def made() -> Block | str:
        known = door.catalog is not None and bool(door.catalog.repositories.all())
        if known and door.catalog is not None:
            door.catalog.search.refresh()  # while the person writes
        listing = Listing(()) if door.catalog is None else await door.catalog.scripts.all()
        scripts = script_choices(listing.scripts)
        templates = await door.sessions.templates.list(user)
        return start_modal(
            about, channel, templates, template, repositories=known, scripts=scripts, unlisted=listing.unread
        )

    async def tell(text: str) -> None:
        if here is not None:
            await door.whisper(ThreadId(door.me.team_id, here, None), user, text)
        else:
            await _message(door, user, text)

    door.after.start(open_modal(door.client, str(body["trigger_id"]), made(), tell), "modal")


async def start(door: Door, view: dict[str, Any], user_id: str) -> dict[str, str]:
    """Stores the turn, once for a view; what is wrong, by block id. Raises StoreUnavailable."""
    wanted = read_start(view)
    if isinstance(wanted, dict):
        return wanted
    thread = _thread_of(door, wanted)
    verdict = door.access.known(user_id, thread.channel, lately=True)  # they were let in to send this in
    if verdict is None:
        return {"where": _UNKNOWN}
    if not verdict.allowed:
        return {"where": door.access.sentence(verdict)}
    prompt = Prompt(
        thread, f"view:{view['id']}", door.ts(), user_id, wanted.text, True, wanted.repository, wanted.branch,
        wanted.model, wanted.mode, wanted.template, wanted.startup_script,
    )  # fmt: skip
    try:
        prompt = await from_template(door.sessions, prompt)
        prompt = replace(prompt, text=await _with_quoted(door, wanted, prompt.text))
    except TemplateError as error:
        return {"template": error.sentence()}
    except _Unread:
        return {"bring": _UNREAD}
    # Not before: while a thread is read somebody else may have called Flow into it.
    session = await door.sessions.find(thread) if thread.thread_ts is not None else None
    if session is not None and (wanted.repository or wanted.template):
        return {"repository" if wanted.repository else "template": _NEWER}
    if wanted.mode is not None:
        before = door.sessions.policy.mode_of(session) if session is not None else door.sessions.policy.mode
        turns = await door.sessions.turns(session.id) if session is not None else []
        if why := door.answerers.loosening_refusal(before, wanted.mode, turns, user_id):
            return {"mode": await door.people.readable(why)}
    if session is not None:
        await _set(door, session, wanted, user_id)
    submitted = await door.sessions.submit(prompt)
    if submitted is not None and submitted.fresh:
        log.info("started from a modal", session=submitted.session.id, by=user_id, about=wanted.about is not None)

        async def refused(sentence: str) -> None:
            await _message(door, user_id, sentence)

        door.show.if_refused(submitted.turn.id, refused)
    return {}


def _thread_of(door: Door, wanted: Start) -> ThreadId:
    if wanted.channel is not None:
        return ThreadId(door.me.team_id, wanted.channel, None)
    assert wanted.about is not None
    return ThreadId(door.me.team_id, wanted.about.channel, wanted.about.root)


async def _set(door: Door, session: Session, wanted: Start, user_id: str) -> None:
    """Model and mode of a session that is there already."""
    if wanted.model is not None:
        await door.sessions.choose_model(session.id, wanted.model)
    if wanted.mode is not None:
        await door.sessions.set_mode(session.id, wanted.mode, user_id)


async def _with_quoted(door: Door, wanted: Start, text: str) -> str:
    """What is asked, and below it the message, or its thread, as Claude reads it. Raises _Unread."""
    about = wanted.about
    if about is None or (wanted.channel is None and wanted.thread):
        return text  # a thread that it is called into is read anyway
    messages: Sequence[dict[str, Any]] = [{"ts": about.ts, "text": about.markup, **_by(about)}]
    if wanted.thread or not about.whole:
        try:
            found = await _read(door, about)
            messages = found if wanted.thread else [one for one in found if one.get("ts") == about.ts] or messages
        except Exception as error:
            log.info("cannot read a thread to bring along", error=refusal(error).error)
            if wanted.thread:
                raise _Unread from error
    authors = [str(one["user"]) for one in messages if one.get("user")]
    await door.people.meet(authors, *(str(one.get("text") or "") for one in messages))
    lines = "\n".join([line for one in messages if (line := await _line(door, one))])
    if len(lines) > _LETTERS:
        lines = f"[…]\n{lines[-_LETTERS:]}"
    place = about.place if about.place != "directmessage" else ""
    return bring(text, "thread" if wanted.thread else "message", place, lines) if lines else text


def _by(about: About) -> dict[str, Any]:
    return {"user": about.author} if about.author else {"username": about.app}


async def _line(door: Door, message: dict[str, Any]) -> str:
    """Who said what, Flow itself too; empty when nothing was said."""
    text = await door.people.readable(str(message.get("text") or ""))
    if not text:
        return ""
    if author := message.get("user"):
        return f"{await door.people.name(str(author))}: {text}"
    return f"{(message.get('bot_profile') or {}).get('name') or message.get('username') or 'an app'}: {text}"


async def _read(door: Door, about: About) -> list[dict[str, Any]]:
    """The newest of the thread, up to the limit. Raises what the client raises, and TimeoutError."""
    async with asyncio.timeout(_PATIENCE):
        answer = await door.client.conversations_replies(channel=about.channel, ts=about.root, limit=_MOST)
    return list(answer.get("messages") or [])


async def _message(door: Door, user_id: str, text: str) -> None:
    """In the person's own conversation with the app."""
    try:
        await door.client.chat_postMessage(channel=user_id, text=text)
    except Exception as error:  # noqa: BLE001 - nobody is left to tell
        log.warning("cannot tell a person", error=refusal(error).error)
