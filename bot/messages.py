"""Mentions, replies and direct messages: each is stored as a turn, or as an aside, then acknowledged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slack_bolt.async_app import AsyncApp
from slack_bolt.request.async_request import AsyncBoltRequest

from bot.backlog import as_aside
from bot.door import Door
from bot.edits import take_edit
from bot.errors import sentence_for
from bot.inbound import EmptyMention, Said, StopWord, read_message
from bot.listing import help_text
from bot.stopping import is_late, is_redelivered, stop_word
from bot.templating import from_template
from bot.threadacts import act_on_word
from bot.threadwords import word_of
from config.errors import FlowError
from config.logging import bind, get_logger
from sessions.templates import TemplateError
from sessions.types import Prompt

log = get_logger(__name__)


def register(app: AsyncApp, door: Door) -> None:
    async def heard(event: dict[str, Any], request: AsyncBoltRequest) -> None:
        if event.get("subtype") in ("message_changed", "message_deleted"):
            await take_edit(door, event)
        else:
            await take(door, event, again=is_redelivered(request))

    async def admitted(event: dict[str, Any]) -> None:
        if event.get("subtype") in ("message_changed", "message_deleted"):
            await take_edit(door, event, admitted=True)
        else:
            await take(door, event, again=is_late(door, str(event["ts"])), admitted=True)

    door.guard.take = admitted
    app.event("app_mention")(heard)
    app.event("message")(heard)


async def take(
    door: Door, event: dict[str, Any], *, again: bool = False, late: bool = False, admitted: bool = False
) -> None:
    """What a message asks for, or nothing. Returning acknowledges; raising leaves the event to Slack's redelivery.

    `again`: it is a redelivery. `late`: it was read from the conversation, not told as an event. `admitted`: its
    author is known to be one who may.
    """
    # Both events of a mention ask the same; what is not stored is done for one of them.
    twin = event.get("type") == "app_mention"
    asked = read_message(event, door.me, late=late)
    if not admitted and not await door.guard.admits(event, asked, late=late):
        return
    match asked:
        case Prompt() as prompt if (told := word_of(event, prompt, door.me)) is not None:
            if not twin:
                await act_on_word(door, told, late=again or late)
        case Prompt() as prompt:
            await _submit(door, prompt, apologise=not (again or late or admitted))
        case Said() as said:
            await _overhear(door, said)
        case StopWord() as word if not twin:
            await stop_word(door, word, late=again or late)
        case EmptyMention() as empty if not twin and not late:
            door.after.start(door.whisper(empty.thread, empty.user_id, help_text(door.me)), "help")


async def _submit(door: Door, prompt: Prompt, *, apologise: bool) -> None:
    with bind(thread=prompt.thread.thread_ts, channel=prompt.thread.channel):
        try:
            submitted = await door.sessions.submit(await from_template(door.sessions, prompt))
        except TemplateError as error:
            _refuse(door, prompt, error, apologise=apologise)
            return
        except FlowError as error:
            log.warning("message not stored; Slack will send it again", error=error.sentence())
            raise
        except Exception as error:
            told = sentence_for(error, "storing a message")
            if apologise:
                thread = prompt.thread
                here = thread if thread.thread_ts != prompt.ts else replace(thread, thread_ts=None)
                door.after.start(door.whisper(here, prompt.user_id, told), "apology")
            raise
        if submitted is None:
            log.debug("nothing to do for this message", source=prompt.source_id)
        elif not submitted.fresh:
            log.debug("message known already", source=prompt.source_id)


def _refuse(door: Door, prompt: Prompt, error: TemplateError, *, apologise: bool) -> None:
    """Nothing is stored, and nothing comes again: whoever wrote it is told, once of a mention's two events."""
    log.info("a message is not taken", source=prompt.source_id, why=error.sentence())
    if apologise and door.acted.first(f"template {prompt.source_id}"):
        thread = prompt.thread
        here = thread if thread.thread_ts != prompt.ts else replace(thread, thread_ts=None)
        door.after.start(door.whisper(here, prompt.user_id, error.sentence()), "template")


async def _overhear(door: Door, said: Said) -> None:
    """Claude hears of it with the next turn."""
    if await door.sessions.find(said.thread) is not None:
        await door.sessions.overheard([await as_aside(door.people, said)])
        door.show.spoken(said.thread, said.ts)
