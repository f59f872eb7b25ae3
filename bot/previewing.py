"""Previews put together: where they are noted, their links, and the hosts under which Flow's HTTP server has them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from sessions.previews import Links, Previews
from worklets.identity import Identity
from worklets.rundir import worklet_dir

if TYPE_CHECKING:
    from bot.core import Core
    from config.settings import Settings
    from sessions.types import SessionId
    from web.previews import PreviewHosts


def previews_of(settings: Settings, core: Core) -> tuple[Previews, Links] | None:
    """None where there are none: no address is set, or worklets run on this machine itself."""
    if not settings.previews.url or core.runtime.kind != "docker":
        return None
    links = Links(Identity.load(settings.share_dir), "", time.time)
    return Previews(core.database, core.store.clock, core.sessions.owner), links


def preview_hosts(settings: Settings, core: Core, previews: tuple[Previews, Links]) -> PreviewHosts:
    from web.previews import PreviewHosts

    async def run_dir(session_id: SessionId) -> Path:
        return worklet_dir(settings.share_dir, (await core.sessions.get(session_id)).worklet) / "run"

    return PreviewHosts(
        *previews, run_dir, core.sessions.wake, core.sessions.visited, expires=settings.previews.expires
    )
