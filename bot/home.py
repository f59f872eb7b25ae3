"""The app's home tab: a person's sessions."""

from __future__ import annotations

from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Door
from bot.errors import sentence_for
from bot.listing import help_blocks, sessions_blocks
from bot.parts import section


def register(app: AsyncApp, door: Door) -> None:
    async def opened(event: dict[str, Any]) -> None:
        if event.get("tab") == "home":
            door.after.start(publish_home(door, str(event["user"])), "home")

    app.event("app_home_opened")(opened)


async def publish_home(door: Door, user_id: str) -> None:
    """Shows the person's newest sessions, those asleep too. Raises SlackApiError."""
    try:
        mine = await door.sessions.list(user_id=user_id, limit=30)
        listed = sessions_blocks(mine, door.me, "*Your sessions*", "You have no session yet.")
    except Exception as error:  # noqa: BLE001 - worded for the person who looks
        listed = [section(sentence_for(error, "listing sessions"))]
    blocks = [*help_blocks(door.me), {"type": "divider"}, *listed]
    await door.client.views_publish(user_id=user_id, view={"type": "home", "blocks": blocks})
