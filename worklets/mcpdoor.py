"""`/flow/mcp/<server>` behind a worklet's door: an MCP server outside, with the secret that never comes inside.

MCP's Streamable HTTP (2025-06-18): POST with one JSON-RPC message, GET for the server's own stream, DELETE for the end
of a session. Both bodies pass as they come, byte by byte; of the headers only those of the protocol. Where a server is
and what it is sent is the grant's: {"github": {"url", "headers"}}, {"postgres": {"dsn"}}, or, in a sidecar,
{"tracker": {"sidecar": directory, "command", "env", "hosts", "secrets"}}. The worklet says nothing of it.

Each request that goes to a server has a line in the log, however it ends: a program inside can ask past Claude. So that
no worklet can push such lines out of the log, it has a pace; what comes faster is refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import structlog

from worklets.gatewayroutes import PATH, Caller

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession, web

    from worklets.sidecardoor import SidecarDoor

SUBJECT = "mcp"
_LONGEST = 32 << 20  # bytes of one request
_SEEN = 1 << 16  # bytes of one that are looked at, to say in the log what it asked for
_SAID = 120  # characters of one message
_BATCH = 1000  # characters of several
_BURST = 120  # requests of a worklet at once, and then
_PACE = 1.0  # a second
_WORKLETS = 10_000  # whose pace is known
_LOOPBACK = ("127.0.0.1", "localhost", "::1")  # no proxy of the environment on the way there
_SENT = ("Accept", "Content-Type", "Mcp-Session-Id", "Mcp-Protocol-Version", "Last-Event-ID", "User-Agent")
_RETURNED = ("Content-Type", "Mcp-Session-Id", "Mcp-Protocol-Version", "Cache-Control", "Retry-After", "Allow")

log = structlog.get_logger(__name__)


class TooLong(ValueError):
    """A request's body is over its limit."""


class Body:
    """A request's body, piece by piece, up to a limit; aiohttp words what is raised in one anew."""

    def __init__(self, request: web.BaseRequest, longest: int = _LONGEST) -> None:
        self._request, self.longest, self.size, self._head = request, longest, 0, bytearray()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises TooLong."""
        async for chunk in self._request.content.iter_any():
            self.size += len(chunk)
            self._head += chunk[: max(0, _SEEN - len(self._head))]
            if self.size > self.longest:
                raise TooLong
            yield chunk

    def asked(self) -> str | None:
        """What has passed asks for, "tools/call add"; "unreadable": no JSON-RPC, or too long to look at; None: none."""
        if not self.size:
            return None
        try:
            message = json.loads(self._head, object_pairs_hook=_once) if self.size <= _SEEN else None
        except (ValueError, RecursionError):
            message = None
        return _asked(message) or "unreadable"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a name that stands there twice: the server may read the other one."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError
    return found


def _asked(message: Any) -> str | None:
    """What a JSON-RPC message, or a batch of them, asks for."""
    if isinstance(message, list):
        text = ", ".join(_asked(one) or "unreadable" for one in message if not isinstance(one, list))
        return f"batch of {len(message)}: {text[:_BATCH]}"
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        return "an answer" if isinstance(message, dict) and ("result" in message or "error" in message) else None
    params = message.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    said = f"{message['method']} {name}" if isinstance(name, str) else message["method"]
    return "".join(c if c.isprintable() else "·" for c in said[:_SAID])


class McpDoor:
    """`headers`: seconds within which a server begins to answer. `idle`: for which an answer may say nothing.

    A stream of the server's own, which a GET asks for, may be silent for as long as the session lasts.
    """

    def __init__(self, *, headers: float = 120.0, idle: float = 300.0, pace: float = _PACE) -> None:
        self._headers, self._idle, self._pace = headers, idle, pace
        self._sidecars: SidecarDoor | None = None
        # By worklet: requests left, when, and whether it was too fast.
        self._left: dict[str, tuple[float, float, bool]] = {}

    async def answer(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Serves one request; the caller's grant says which servers there are."""
        name = request.rel_url.raw_path[len(PATH) :].partition("/")[2]
        target = caller.grant.get(name) if isinstance(caller.grant, dict) else None
        if target is None:
            return refusal(404, f"This worklet has no MCP server {name[:40]!r} behind its door.")
        if request.method not in ("POST", "GET", "DELETE"):
            return refusal(405, "MCP speaks POST, GET and DELETE.")
        if not self._in_time(caller.name):
            return refusal(429, "This worklet asks its MCP servers too often. Wait a minute.")
        body, began = Body(request), time.monotonic()
        response: web.StreamResponse | None = None
        try:
            if "dsn" in target:
                from worklets.mcppostgres import answer as answer_postgres

                response = await answer_postgres(request, body, caller.name, target["dsn"])
            elif "command" in target:
                if self._sidecars is None:
                    from worklets.sidecardoor import SidecarDoor

                    self._sidecars = SidecarDoor()
                response = await self._sidecars.answer(request, body, caller, name, target)
            else:
                response = await self._forward(request, body, caller.name, name, target)
            return response
        finally:  # also of whoever hangs up
            log.info(
                "MCP request", worklet=caller.name, server=name, method=request.method, size=body.size,
                asked=body.asked(), status=response.status if response is not None else None,
                seconds=round(time.monotonic() - began, 2),
            )  # fmt: skip

    def _in_time(self, worklet: str) -> bool:
        """Takes one of the requests that the worklet has left."""
        now = time.monotonic()
        left, since, refused = self._left.pop(worklet, (float(_BURST), now, False))
        left = min(float(_BURST), left + (now - since) * self._pace)
        fits = left >= 1
        self._left[worklet] = (left - fits, now, not fits)  # the latest stands last
        if len(self._left) > _WORKLETS:
            del self._left[next(iter(self._left))]
        if not fits and not refused:
            log.warning("MCP requests are refused: too many", worklet=worklet)
        return fits

    async def _forward(
        self, request: web.BaseRequest, body: Body, worklet: str, name: str, target: dict[str, Any]
    ) -> web.StreamResponse:
        from aiohttp import ClientError

        headers = {key: request.headers[key] for key in _SENT if key in request.headers}
        idle = None if request.method == "GET" else self._idle
        try:
            async with _client(target["url"], idle) as http:
                async with asyncio.timeout(self._headers):
                    found = await http.request(
                        request.method,
                        target["url"],
                        headers=headers | target["headers"],
                        data=body.pieces() if request.body_exists else None,
                        allow_redirects=False,
                    )
                async with found:
                    return await _pass_on(request, found, name)
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            if body.size > body.longest:
                return refusal(413, f"An MCP message has at most {body.longest >> 20} MiB.")
            log.warning("MCP server unreachable", worklet=worklet, server=name, error=type(error).__name__)
            return refusal(502, f"Flow cannot reach the MCP server {name} ({type(error).__name__}). Try again later.")


async def _pass_on(request: web.BaseRequest, found: ClientResponse, name: str) -> web.StreamResponse:
    """Errors that concern the secret are worded here: else the CLI would look for a login, in a browser."""
    from aiohttp import ClientError, web

    if found.status in (401, 403):
        log.warning("MCP server refuses its secret", server=name, status=found.status)
        return refusal(502, f"{name} refuses Flow's token (HTTP {found.status}). An administrator has to renew it.")
    if 300 <= found.status < 400:
        return refusal(502, f"{name} answered with another address (HTTP {found.status}), which Flow does not follow.")
    response = web.StreamResponse(status=found.status)
    for key in _RETURNED:
        if key in found.headers:
            response.headers[key] = found.headers[key]
    try:
        await response.prepare(request)
        async for chunk in found.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (ClientError, TimeoutError, OSError, ValueError) as error:
        # No other answer may follow this one's beginning, and a cut stream must look cut on this side too.
        if not isinstance(error, ConnectionResetError):  # else the CLI went away
            log.warning("MCP stream cut", server=name, error=type(error).__name__)
        if request.transport is not None:
            request.transport.abort()
    return response


def _client(url: str, idle: float | None) -> ClientSession:
    """For one request: calls of tools are rare, and so no worklet's connection is ever another's."""
    from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
    from yarl import URL

    return ClientSession(
        timeout=ClientTimeout(total=None, connect=30, sock_connect=15, sock_read=idle),
        cookie_jar=DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        trust_env=URL(url).host not in _LOOPBACK,
    )


def refusal(status: int, sentence: str) -> web.Response:
    """As JSON-RPC's error, which clients show."""
    from aiohttp import web

    body = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": sentence}}
    return web.json_response(body, status=status)
