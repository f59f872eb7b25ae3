"""How much of Claude's work a channel or a thread shows: what people set, and what they are told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessions.options import Level, Scope

if TYPE_CHECKING:
    from bot.door import Door

_SHOWS = {
    Level.QUIET: "how it goes, and then only the answer",
    Level.NORMAL: "a line for each tool that I use",
    Level.VERBOSE: "everything: what I think, more of what tools print, and what sub-agents do",
}


async def set_level(door: Door, scope: Scope, key_id: str, level: Level, user_id: str) -> str:
    """`key_id` of a channel or a session. Says in mrkdwn what becomes of it. Raises StoreUnavailable."""
    await door.sessions.options.set(scope, key_id, "level", level.value, user_id)
    where = "This channel's threads show" if scope == "channel" else "This thread shows"
    but = " A thread with a level of its own keeps it." if scope == "channel" else ""
    return f"{where} {_SHOWS[level]} (*{level.value}*), from the next message on.{but}"
