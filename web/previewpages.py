"""A request for a preview, and the pages that Flow itself shows in a preview's place."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from sessions.previews import Preview


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a preview from a page of `page`: the same one, or another of its thread.

    `until`: seconds since 1970, the end of its cookie.
    """

    request: web.Request
    preview: Preview
    page: Preview
    until: float

    @property
    def is_websocket(self) -> bool:
        return self.request.headers.get("Upgrade", "").lower() == "websocket"

    @property
    def is_opened(self) -> bool:
        """Somebody opens a page, rather than one that is open asks for something (W3C Fetch Metadata)."""
        mode = self.request.headers.get("Sec-Fetch-Mode")
        return mode == "navigate" or (mode is None and not self.is_websocket)


def closed() -> web.Response:
    return notice(404, "This preview is closed", "Ask Claude in the thread to open it again.")


def notice(status: int, title: str, more: str, again: int | None = None) -> web.Response:
    """For people; `again`: seconds after which the browser asks anew. `*words*` in `more` are emphasised."""
    refresh = f'<meta http-equiv="refresh" content="{again}">' if again else ""
    more = re.sub(r"\*(.+?)\*", r"<b>\1</b>", html.escape(more))
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:20vh auto;padding:0 1rem;"
        "color-scheme:light dark}h1{font-size:1.3rem}</style></head>"
        f"<body><h1>{html.escape(title)}</h1><p>{more}</p></body></html>"
    )
    headers: Mapping[str, str] = {
        "Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        "Referrer-Policy": "no-referrer", **({"Retry-After": str(again)} if again else {}),
    }  # fmt: skip
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)
