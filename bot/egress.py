"""What worklets may reach outside by people's word, listed: for a channel, for a thread; and taking it back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.below import person
from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.parts import Block, actions, button, context, fallback, section
from bot.threadwords import Word
from config.logging import get_logger
from sessions.egressstore import StoredGrant
from sessions.types import Session, SessionId
from worklets.egressgrants import named

log = get_logger(__name__)

REVOKE = "egress_revoke"  # its value: the grant's id, then the id of the session in whose thread it is listed
_SHOWN = 20


def grants_blocks(grants: Sequence[StoredGrant], where: str, session_id: str = "") -> list[Block]:
    """mrkdwn: `where` is "in this channel" or the like. The newest first."""
    if not grants:
        return [section(f"Nobody has decided {where} what my containers may reach outside, beyond the settings.")]
    blocks: list[Block] = [section(f"*What my containers may reach outside {where}*, beyond the settings:")]
    for grant in list(reversed(grants))[:_SHOWN]:
        verb = "allowed" if grant.allowed else "refused"
        reach = "all sessions of the channel" if grant.scope == "channel" else "this session"
        when = f"<!date^{int(grant.at.timestamp())}^{{date_short_pretty}}|{grant.at:%Y-%m-%d}>"
        line = f"`{named(grant.place)}`: {verb} by {person(grant.by)}, for {reach}, {when}"
        label = "Revoke" if grant.allowed else "Ask again"
        blocks += [section(line), actions(button(f"{REVOKE}_{len(blocks)}", label, f"{grant.id} {session_id}".strip()))]
    if len(grants) > _SHOWN:
        blocks.append(context(f"… and {len(grants) - _SHOWN} older ones."))
    return blocks


async def channel_blocks(door: Door, channel: str) -> list[Block]:
    """For `/flow egress`. Raises StoreUnavailable."""
    if door.egress is None or not door.egress.asked:
        return [section(_OFF)]
    return grants_blocks(await door.egress.of_channel(door.me.team_id, channel), "in this channel")


async def session_blocks(door: Door, session_id: SessionId) -> list[Block]:
    """For the word `egress` in a thread. Raises StoreUnavailable."""
    if door.egress is None or not door.egress.asked:
        return [section(_OFF)]
    return grants_blocks(await door.egress.of_session(session_id), "in this thread", session_id)


async def tell_in_thread(door: Door, session: Session, word: Word) -> str:
    """What the word `egress` does: lists, for whoever wrote it."""
    blocks = await session_blocks(door, session.id)
    await door.whisper(session.thread, word.user_id, fallback(blocks), blocks)
    return ""


_OFF = "This Flow asks nobody for hosts: what my containers may reach outside is in its settings (FLOW_EGRESS…)."


def register(app: AsyncApp, door: Door) -> None:
    async def revoke(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        grant_id, _, session_id = str(action.get("value", "")).partition(" ")
        channel, user_id = str((body.get("channel") or {}).get("id", "")), str(body["user"]["id"])
        door.after.start(_revoke(door, grant_id, session_id, channel, user_id, respond), REVOKE)

    app.action(re.compile(rf"{REVOKE}_\d+"))(revoke)


async def _revoke(door: Door, grant_id: str, session_id: str, channel: str, user_id: str, respond: Respond) -> None:
    """To tighten is everybody's. A no goes before what the channel allows: who may answer may take it back."""
    try:
        if (refusal := await _refusal(door, grant_id, user_id)) is not None:
            await respond(text=refusal, response_type="ephemeral", replace_original=False)
            return
        if door.egress is not None:
            await door.egress.revoke(grant_id, user_id)
        blocks = await (session_blocks(door, SessionId(session_id)) if session_id else channel_blocks(door, channel))
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        await respond(text=sentence_for(error, REVOKE), response_type="ephemeral", replace_original=False)
        return
    await respond(text=fallback(blocks), blocks=blocks, response_type="ephemeral", replace_original=True)


async def _refusal(door: Door, grant_id: str, user_id: str) -> str | None:
    grant = await door.egress.granted(grant_id) if door.egress is not None else None
    if grant is None or grant.allowed or grant.scope != "session":
        return None
    refusal = door.answerers.reach_refusal(await door.sessions.turns(SessionId(grant.scope_id)), user_id)
    if refusal is not None:
        log.info("somebody who may not answer tried to take a no back", grant=grant_id, by=user_id)
    return refusal
