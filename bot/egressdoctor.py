"""What `flow doctor` says of what worklets may reach outside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding

if TYPE_CHECKING:
    from config.settings import EgressSettings, Settings

_LOOKED_UP = 20  # hosts
_SECONDS = 10.0


async def egress(settings: Settings) -> Finding:
    """What is set, what it means that people may not, and hosts that lead nowhere."""
    own = settings.egress
    if own.mode == "none":
        return Finding("ok", "worklets reach nothing outside (FLOW_EGRESS=none)")
    if settings.worklets.runtime == "local":
        advice = "Set FLOW_RUNTIME=docker: nothing holds a plain process to the proxy."
        return Finding("warn", f"FLOW_EGRESS={own.mode} is not enforced by the local runtime", advice)
    if trouble := await _unreachable(own):
        return Finding("warn", trouble, "Correct FLOW_EGRESS_HOSTS, or mend the machine's name server.")
    if own.mode == "open" and not (own.deny or own.deny_networks):
        advice = "Name what must not be reached in FLOW_EGRESS_DENY, or set FLOW_EGRESS=allow-list."
        return Finding("warn", "worklets reach every public host, and can send what they hold anywhere", advice)
    asked = f"; people may allow {', '.join(own.ask)}" if own.ask else ""
    reached = "every public host" if own.mode == "open" else f"{len(own.hosts)} named hosts"
    if not own.hosts and own.mode == "allow-list":
        reached = "no host by itself"
    return Finding("ok", f"worklets reach {reached}{asked}")


async def _unreachable(own: EgressSettings) -> str | None:
    """Named hosts that have no address which may be reached. Of a wildcard nothing can be known."""
    from worklets.egressdial import is_outside, resolve
    from worklets.egressnetworks import contains, networks

    denied = networks(own.deny_networks)

    def without(host: str) -> str | None:
        name = host.partition(":")[0]
        try:
            addresses = resolve(name)
        except (OSError, UnicodeError):
            return f"{name} has no address"
        if not any(is_outside(address) and not contains(denied, address) for address in addresses):
            return f"{name} leads to no address that may be reached"
        return None

    async def looked_up(host: str) -> str | None:
        try:
            async with asyncio.timeout(_SECONDS):
                return await asyncio.to_thread(without, host)
        except TimeoutError:
            return f"{host.partition(':')[0]} was not found in {_SECONDS:.0f} seconds"

    hosts = [host for host in own.hosts if not host.startswith("*.")][:_LOOKED_UP]
    found = [one for one in await asyncio.gather(*map(looked_up, hosts)) if one is not None]
    return "; ".join(found) or None
