"""What `flow doctor` says of previews: whether there are any, and who can open them."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bot.doctorfinding import Finding
from worklets.egressdial import resolve as _resolve

if TYPE_CHECKING:
    from config.settings import Settings

_SECONDS = 10.0
_LABEL = "0" * 16  # like a preview's: what stands for * leads to the same place
_HERE = "only browsers on this machine open them"


async def previews(settings: Settings, resolve: Callable[[str], Sequence[str]] = _resolve) -> Finding:
    """A name below FLOW_PREVIEW_URL is looked up; whether a proxy there leads to Flow is not known.

    `resolve` returns a host's addresses; it blocks, and raises OSError.
    """
    if not settings.previews.url:
        told = "none: Claude cannot show people the servers that it starts (FLOW_PREVIEW_URL is not set)"
        return Finding("skip", told)
    url = settings.previews.at(f":{settings.web.port}")
    if settings.worklets.runtime == "local":
        advice = "Set FLOW_RUNTIME=docker: inside would be this machine, with all its servers."
        return Finding("warn", f"{url} is set, and the local runtime has no previews", advice)
    domain = (urlsplit(url).hostname or "").removeprefix("*.")
    if domain == "localhost" or domain.endswith(".localhost"):
        return Finding("ok", f"{url}: {_HERE}")
    addresses = await _addresses(domain, resolve)
    if not addresses:
        advice = f"Let the name server lead *.{domain} to the proxy before Flow, or correct FLOW_PREVIEW_URL."
        return Finding("warn", f"{url}: no name below {domain} is found from here, so nobody opens them", advice)
    told = f"{url}, at {', '.join(addresses[:3])}"
    if all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in addresses):
        return Finding("warn", f"{told}: {_HERE}", f"Let the name server lead *.{domain} to where people reach Flow.")
    if url.startswith("http:"):
        advice = "Let a proxy do TLS for it, and set FLOW_PREVIEW_URL to its https:// (docs/previews.md)."
        return Finding("warn", f"{told}: links, cookies and pages pass unencrypted", advice)
    return Finding("ok", told)


async def _addresses(domain: str, resolve: Callable[[str], Sequence[str]]) -> Sequence[str]:
    try:
        async with asyncio.timeout(_SECONDS):
            return await asyncio.to_thread(resolve, f"{_LABEL}.{domain}")
    except (OSError, UnicodeError):  # TimeoutError is an OSError
        return ()
