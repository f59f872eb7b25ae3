"""GET /health: each part's state, 200 when all work, 503 when one does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from aiohttp import web

from config.errors import FlowError

#: Answers e.g. {"state": "connected", "since": "…"}; raising means the part is down.
Probe: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]

#: The states that count as healthy.
GOOD = frozenset({"ok", "connected", "running", "starting", "disabled"})


def health(probes: Mapping[str, Probe]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler. Answers {"status": "ok" | "degraded", "<part>": {"state": …, "error"?: …}, …}."""

    async def handler(_: web.Request) -> web.Response:
        parts = await states(probes)
        healthy = all(part["state"] in GOOD for part in parts.values())
        body = {"status": "ok" if healthy else "degraded", **parts}
        return web.json_response(body, status=200 if healthy else 503)

    return handler


async def states(probes: Mapping[str, Probe]) -> dict[str, dict[str, Any]]:
    """{"<part>": {"state": …, "error"?: …}, …}: all are asked at once, and each has 5 seconds."""
    found = await asyncio.gather(*(_ask(probe) for probe in probes.values()))
    return dict(zip(probes, found, strict=True))


async def _ask(probe: Probe) -> dict[str, Any]:
    try:
        async with asyncio.timeout(5):
            return dict(await probe())
    except FlowError as e:
        return {"state": "down", "error": e.sentence()}
    except TimeoutError:
        return {"state": "down", "error": "It did not answer within 5 seconds."}
    except Exception as e:  # noqa: BLE001 - a health page that fails tells nothing
        return {"state": "down", "error": type(e).__name__}
