"""What `flow doctor` says of the repositories: whether each answers, with the login that Flow has for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding
from config.errors import FlowError
from config.units import format_size

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.mirrors import Mirrors
    from worklets.repositories import Repository

_AT_ONCE = 4
_NONE = "none has a name (FLOW_REPOSITORIES); people write addresses"
_FULL = 0.9  # of the mirrors' limit


async def repositories(settings: Settings) -> Finding:
    """Asks each host. Raises FlowError."""
    from bot.core import mirrors_of
    from bot.secretstores import open_secrets
    from worklets.identity import Identity
    from worklets.repositories import Repositories

    if not settings.repositories.repositories:
        return Finding("ok", _NONE)
    scripts = settings.repositories.scripts
    if scripts is not None and not await asyncio.to_thread(scripts.is_dir):
        return Finding("fail", f"{scripts} is no directory", "Correct FLOW_STARTUP_SCRIPTS.")
    secrets = open_secrets(settings)
    try:
        known = Repositories(settings.repositories, secrets)
        mirrors = mirrors_of(settings, Identity.load(settings.share_dir), known)
        gate = asyncio.Semaphore(_AT_ONCE)
        failed = [why for why in await asyncio.gather(*(_ask(mirrors, one, gate) for one in known.all())) if why]
        state = await asyncio.to_thread(mirrors.state)
    finally:
        await secrets.aclose()
    if failed:
        advice = "Check the address and the network; store a login with `flow secrets set git/<name>`."
        return Finding("fail", "; ".join(failed), advice)
    taken, limit = int(state["bytes"]), int(state["limit"])
    told = f"{len(known.all())} answer; {state['mirrors']} mirrors take {format_size(taken)} of {format_size(limit)}"
    if taken > _FULL * limit:
        return Finding("warn", told, "Raise FLOW_MIRROR_LIMIT: new repositories may not find room.")
    return Finding("ok", told)


async def _ask(mirrors: Mirrors, one: Repository, gate: asyncio.Semaphore) -> str | None:
    """Why it cannot be used; None: it can."""
    async with gate:
        try:
            found = await mirrors.branches(one.name)
        except FlowError as error:
            return f"{one.name}: {error}".rstrip(".")
    if one.branch is not None and one.branch not in found.names:
        return f"{one.name} has no branch {one.branch}"
    return None
