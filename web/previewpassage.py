"""The way from a browser to a preview's server and back: HTTP and WebSockets, with the headers that each should see."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from config.logging import get_logger
from sessions.previews import Links, Preview
from web.previewpages import Visit, notice
from web.previewservers import Servers
from worklets.answerstream import stream_on
from worklets.inside import connector

log = get_logger(__name__)

_LONGEST_MESSAGE = 16 << 20  # bytes, of a WebSocket
_HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
}  # fmt: skip
_NOT_SENT = _HOP_BY_HOP | {"host", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
_NOT_RETURNED = _HOP_BY_HOP | {"strict-transport-security", "alt-svc", "clear-site-data"}
_WEBSOCKET = {h.lower() for h in ("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions",
                                  "Sec-WebSocket-Protocol")}  # fmt: skip


class Passage:
    """`cookie`: the name of Flow's own, which no server inside sees or sets. Close it with `aclose`."""

    def __init__(self, links: Links, servers: Servers, cookie: str) -> None:
        self._links, self._servers, self._cookie = links, servers, cookie
        self._clients: dict[str, ClientSession] = {}

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def forget(self, preview_id: str) -> None:
        """Nobody has asked for it for a while."""
        if (client := self._clients.pop(preview_id, None)) is not None:
            await client.close()

    def _client(self, preview: Preview, run_dir: Path) -> ClientSession:
        if preview.id not in self._clients:
            self._clients[preview.id] = ClientSession(
                connector=connector(run_dir, preview.port),
                timeout=ClientTimeout(total=None, sock_connect=15),
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            )
        return self._clients[preview.id]

    def _headers(self, visit: Visit) -> CIMultiDict[str]:
        """As the server inside would see them from a browser beside it: dev servers check Host and Origin."""
        request, preview = visit.request, visit.preview
        named = {name.strip().lower() for name in request.headers.get("Connection", "").split(",")}
        sent: CIMultiDict[str] = CIMultiDict()
        ours, theirs = self._links.address(visit.page), f"http://localhost:{visit.page.port}"
        for name, value in request.headers.items():
            match name.lower():
                case lower if lower in _NOT_SENT | named:
                    continue
                case "cookie":
                    kept = [one for one in value.split("; ") if one.partition("=")[0].strip() != self._cookie]
                    if kept:
                        sent.add(name, "; ".join(kept))
                case "origin" | "referer" if value == ours or value.startswith(ours + "/"):
                    sent.add(name, theirs + value[len(ours) :])
                case _:
                    sent.add(name, value)
        sent["Host"] = f"localhost:{preview.port}"
        sent["X-Forwarded-Host"] = request.host
        sent["X-Forwarded-Proto"] = "https" if self._links.url.startswith("https:") else "http"
        return sent

    async def http(self, visit: Visit, run_dir: Path) -> web.StreamResponse:
        request, preview = visit.request, visit.preview
        url = URL(f"http://localhost:{preview.port}{request.rel_url.raw_path_qs}", encoded=True)
        body = request.content.iter_any() if request.body_exists else None
        try:
            answer = await self._client(preview, run_dir).request(
                request.method, url, headers=self._headers(visit), data=body, allow_redirects=False
            )
        except (ClientError, TimeoutError, OSError) as error:
            self._servers.lost(preview.id)
            log.debug("a preview's server does not answer", preview=preview.id, error=str(error))
            if (missing := await self._servers.missing(visit, run_dir)) is not None:
                return missing  # it fell asleep since it was last seen
            again = 2 if request.method == "GET" and visit.is_opened else None
            return notice(
                502, "The server inside does not answer", "Try again, or ask Claude in the thread.", again=again
            )
        async with answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if (given := self._returned(name, value, visit)) is not None:
                    response.headers.add(name, given)
            if visit.page is not preview and "Access-Control-Allow-Origin" in response.headers:
                response.headers["Access-Control-Allow-Credentials"] = "true"  # without the cookie nothing is answered
            response.headers["X-Robots-Tag"] = "noindex"
            await stream_on(request, response, answer)
            return response

    def _returned(self, name: str, value: str, visit: Visit) -> str | None:
        """A header as the browser gets it; None: not at all."""
        lower, preview = name.lower(), visit.preview
        if lower in _NOT_RETURNED:
            return None
        if lower == "location":
            return re.sub(rf"^https?://(localhost|127\.0\.0\.1):{preview.port}(?=[/?#]|$)", "", value) or "/"
        beside = (f"http://localhost:{visit.page.port}", *(("*",) if visit.page is not preview else ()))
        if lower == "access-control-allow-origin" and value in beside:
            return self._links.address(visit.page)
        if lower == "set-cookie":
            if value.partition("=")[0].strip() == self._cookie:
                return None
            return re.sub(r";\s*domain\s*=[^;]*", "", value, flags=re.IGNORECASE)
        return value

    async def websocket(self, visit: Visit, run_dir: Path) -> web.StreamResponse:
        request, preview, headers = visit.request, visit.preview, self._headers(visit)
        for name in [one for one in headers if one.lower() in _WEBSOCKET]:
            headers.popall(name, None)
        protocols = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if one.strip()]
        url = URL(f"ws://localhost:{preview.port}{request.rel_url.raw_path_qs}", encoded=True)
        try:
            inner = await self._client(preview, run_dir).ws_connect(
                url, headers=headers, protocols=protocols, max_msg_size=_LONGEST_MESSAGE, autoping=False
            )
        except (ClientError, TimeoutError, OSError):
            return notice(502, "The server inside takes no WebSocket here", "Ask Claude in the thread.")
        async with inner:
            outer = web.WebSocketResponse(
                protocols=[inner.protocol] if inner.protocol else (), max_msg_size=_LONGEST_MESSAGE, autoping=False
            )
            await outer.prepare(request)
            pumps = [asyncio.create_task(_pump(outer, inner)), asyncio.create_task(_pump(inner, outer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                await outer.close()
            return outer


async def _pump(source: object, sink: object) -> None:
    """Both are WebSockets of aiohttp, one of its client and one of its server: alike, and of no common type."""
    async for message in source:  # type: ignore[attr-defined]
        match message.type:
            case WSMsgType.TEXT:
                await sink.send_str(message.data)  # type: ignore[attr-defined]
            case WSMsgType.BINARY:
                await sink.send_bytes(message.data)  # type: ignore[attr-defined]
            case WSMsgType.PING:
                await sink.ping(message.data)  # type: ignore[attr-defined]
            case WSMsgType.PONG:
                await sink.pong(message.data)  # type: ignore[attr-defined]
    code = getattr(source, "close_code", None)
    await sink.close(code=code if code and 1000 <= code < 5000 and code not in (1005, 1006, 1015) else 1000)  # type: ignore[attr-defined]
