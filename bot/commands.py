"""`/flow`: starts a thread, or answers privately about itself. Everything it says stands in the acknowledgement."""

from __future__ import annotations

import re
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Ack, Door, Respond
from bot.egress import channel_blocks as egress_blocks
from bot.errors import sentence_for
from bot.inbound import Misspelt, StartFrom, Subcommand, read_command
from bot.listing import LIVE, help_blocks, sessions_blocks, status_text
from bot.markdown import clean, clip
from bot.options import set_level
from bot.parts import Block, fallback, section
from bot.repositories import repositories_blocks
from bot.rules import channel_blocks as rules_blocks
from bot.shortcut import open_start
from bot.stopping import stop_all, stop_in_channel
from bot.templates import list_templates, open_template
from bot.templating import from_template, from_word
from config.logging import get_logger
from sessions.options import Level
from sessions.types import Prompt, SessionState

log = get_logger(__name__)

_STOP_WHAT = (
    "I have stopped nothing and started nothing. `/flow stop` ends what works for you here, `/flow stop all` "
    "whatever works for you anywhere. If that was a task for Claude, begin it with another word."
)


def register(app: AsyncApp, door: Door) -> None:
    async def flow(ack: Ack, body: dict[str, Any], respond: Respond) -> None:
        try:
            asked = read_command(body, door.me, door.ts())
            if isinstance(asked, StartFrom):
                await _start(door, await from_word(door.sessions, asked), respond)
                await ack()
                return
            if isinstance(asked, Prompt):
                await _start(door, await from_template(door.sessions, asked), respond)
                await ack()
                return
            if isinstance(asked, Subcommand) and asked.name == "new":
                open_start(door, body, None, asked.channel)
                await ack()
                return
            if isinstance(asked, Subcommand) and asked.name == "template new":
                open_template(door, body, asked.channel)
                await ack()
                return
            blocks = await _answer(door, asked)
        except Exception as error:  # noqa: BLE001 - commands are not redelivered: the person must hear of it
            await ack(text=sentence_for(error, "/flow"))
            return
        await ack(text=fallback(blocks) or "Flow", blocks=blocks)

    async def other(ack: Ack, body: dict[str, Any]) -> None:
        log.warning("unknown command", command=body.get("command"))
        await ack(text="I do not know this command. `/flow help` says what I can do.")

    app.command("/flow")(flow)
    app.command(re.compile(".*"))(other)


async def _start(door: Door, prompt: Prompt, respond: Respond) -> None:
    """One insert. The outbox posts the thread's root; should the channel refuse it, the person is told."""
    submitted = await door.sessions.submit(prompt)
    if submitted is not None and submitted.fresh:

        async def refused(sentence: str) -> None:
            await respond(text=sentence, response_type="ephemeral")

        door.show.if_refused(submitted.turn.id, refused)


async def _answer(door: Door, asked: Subcommand | Misspelt) -> list[Block]:
    if isinstance(asked, Misspelt):
        return [section(_hint(asked))]
    match asked.name:
        case "status":
            known = await door.sessions.list(states=(*LIVE, SessionState.ASLEEP), limit=1_000)
            return [section(status_text(known, door.version, door.runtime))]
        case "sessions":
            mine = await door.sessions.list(user_id=asked.user_id, limit=100)
            return sessions_blocks(mine, door.me, "*Your sessions*, the newest first", "You have no session yet.")
        case "sessions all":
            return await _all_sessions(door, asked.user_id)
        case "templates":
            return await list_templates(door, asked.user_id, asked.words)
        case "repos":
            assert door.catalog is not None
            listing = await door.catalog.scripts.all()
            return repositories_blocks(door.catalog.repositories.all(), listing.scripts, listing.unread)
        case "egress":
            return await egress_blocks(door, asked.channel)
        case "rules":
            return await rules_blocks(door, asked.channel)
        case "stop":
            return await stop_in_channel(door, asked.channel, asked.user_id)
        case "stop all":
            return await stop_all(door, asked.user_id)
        case "stop what":
            return [section(_STOP_WHAT)]
        case "quiet" | "normal" | "verbose":
            said = await set_level(door, "channel", asked.channel, Level(asked.name), asked.user_id)
            return [section(said)]
        case _:
            return help_blocks(door.me)


async def _all_sessions(door: Door, user_id: str) -> list[Block]:
    """For admins: what is awake, whoever began it, with buttons that stop it."""
    if not door.access.is_admin(user_id):
        return [section(f"Only admins see everybody's sessions. {door.access.whom_to_ask()}")]
    awake = await door.sessions.list(states=(SessionState.NEW, *LIVE), limit=100)
    return sessions_blocks(awake, door.me, "*Everybody's sessions* that are awake", "No session is awake.", whose=True)


def _hint(asked: Misspelt) -> str:
    word = clip(clean(asked.word).replace("`", "'"), 40)
    return f"Did you mean `/flow {asked.meant}`? If `{word}` is for Claude, say it in a few more words."
