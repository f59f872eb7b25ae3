"""`/flow/vault/v1/…` behind a worklet's door: Vault, as far as this session's policy goes.

What the worklet sends as its Vault token is its token for the gateway, of no use elsewhere; here the session's own
takes its place, so no token of Vault's ever comes inside. Only the KV engine below the session's own path, what its
template names, and the look at one's own token are let through: Vault's policy says the same once more.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worklets.gatewayroutes import PATH, Caller

if TYPE_CHECKING:
    from aiohttp import web

SUBJECT = "vault"
_MOST_ASKED, _MOST_ANSWERED = 64 << 10, 4 << 20  # bytes
_MOST_WRITTEN = 16 << 20  # bytes that a worklet may send in all: Vault's disk is everybody's
_LEAST_WRITTEN = 2 << 10  # what each write counts as: Vault keeps more than what was sent
_BODY_SECONDS = 30.0  # for the worklet to send all of a request
_DEEPEST = 10  # parts of a path below the worklet's own folder: whoever clears it walks through all
_RATE, _BURST = 20.0, 60.0  # requests a second of one worklet, and at once
_AT_ONCE = 4
_MOST_PACES = 1000  # worklets whose rate is remembered
_LOOPBACK = ("127.0.0.1", "localhost", "::1")  # no proxy of the environment on the way there
_CLEAN = re.compile(r"v1(/[A-Za-z0-9_@.+:=-]+)+/?")
_QUERY = {"version": re.compile(r"[0-9]{1,9}"), "list": re.compile("true|1")}
_SENT = ("Content-Type", "Accept")
_TOKEN = re.compile(r"[0-9a-f]{64}")  # as `Identity.token` makes them

log = structlog.get_logger(__name__)


class _Pace:
    """How much a worklet asks: what it may still ask now, and what is on its way."""

    def __init__(self) -> None:
        self.left, self.at, self.running = _BURST, time.monotonic(), 0
        self.written = 0

    def take(self) -> bool:
        now = time.monotonic()
        self.left, self.at = min(_BURST, self.left + (now - self.at) * _RATE), now
        if self.left < 1 or self.running >= _AT_ONCE:
            return False
        self.left -= 1
        return True


class VaultDoor:
    """One per gateway: it knows how much each worklet asks."""

    def __init__(self, *, body_seconds: float = _BODY_SECONDS, most_paces: int = _MOST_PACES) -> None:
        self.paces: dict[str, _Pace] = {}  # by worklet; those that asked last are at the end
        self._body_seconds, self._most_paces = body_seconds, most_paces

    async def answer(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Serves one request. The grant: see `worklets.secretstokens.SessionTokens.issue`."""
        if not isinstance(caller.grant, dict):
            return _refusal(403, "This thread's template gives it nothing of Vault.")
        path = request.rel_url.raw_path[len(PATH) + len(SUBJECT) + 1 :]
        if not may(request.method, path, caller.grant):
            return _refusal(403, f"Flow lets no {request.method[:10]} of {path[:200]} through.")
        query = request.rel_url.query.items()
        if any(name not in _QUERY or not _QUERY[name].fullmatch(value) for name, value in query):
            return _refusal(400, "Flow lets version and list through as parameters, nothing else.")
        if not all(request.headers.get(name, "").isascii() for name in _SENT):
            return _refusal(400, f"Flow sends Vault ASCII only, in {' and '.join(_SENT)}.")
        pace = self.paces.pop(caller.name, None) or _Pace()
        self.paces[caller.name] = pace
        if not pace.take():
            return _refusal(429, "This worklet asks Vault too often. Wait a second.", {"Retry-After": "1"})
        pace.running += 1
        try:
            return await self._forward(request, caller, path, pace)
        finally:
            pace.running -= 1
            if len(self.paces) > self._most_paces:
                longest_ago = next((name for name, one in self.paces.items() if not one.running), caller.name)
                del self.paces[longest_ago]

    async def _forward(self, request: web.BaseRequest, caller: Caller, path: str, pace: _Pace) -> web.StreamResponse:
        from aiohttp import ClientError

        try:
            async with asyncio.timeout(self._body_seconds):
                body = await _read(request.content, _MOST_ASKED)
        except TimeoutError:
            return _refusal(408, "The request did not come in time.")
        if body is None:
            return _refusal(413, f"Flow takes at most {_MOST_ASKED >> 10} KiB at once for Vault.")
        if request.method in ("POST", "PUT", "PATCH"):
            pace.written += max(len(body), _LEAST_WRITTEN)
            if pace.written > _MOST_WRITTEN:
                return _refusal(413, "This worklet has sent Vault as much as it may.")
        try:
            async with asyncio.timeout(caller.grant["timeout"] * 2):
                return await _ask(request, caller, path, body)
        except ssl.SSLError:
            return _away(caller, "its certificate is not trusted")
        except FileNotFoundError:
            return _away(caller, "a PEM file of Flow's settings is missing")
        except (ClientError, TimeoutError, OSError) as error:
            return _away(caller, type(error).__name__)


def may(method: str, path: str, grant: Mapping[str, Any]) -> bool:
    """Whether the request may go on. `grant`: `mount`, `own` (a path below it), `readable` (those, or prefixes*)."""
    if not _CLEAN.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        return False
    path, mount, own = path[3:], grant["mount"], grant["own"]
    if path == "auth/token/lookup-self":
        return method == "GET"
    if _within(path, f"sys/internal/ui/mounts/{mount}"):  # what the CLI looks at before it uses a mount
        inside = path.removeprefix(f"sys/internal/ui/mounts/{mount}").strip("/")
        return method == "GET" and (not inside or _within(inside, own) or _readable(inside, grant))
    if not path.startswith(f"{mount}/"):
        return False
    verb, _, inside = path[len(mount) + 1 :].partition("/")
    if _within(inside, own):
        if inside.rstrip("/").count("/") > own.count("/") + _DEEPEST:
            return False
        return method in _METHODS.get(verb, ()) and (verb == "metadata" or inside.rstrip("/") != own)
    return verb == "data" and method == "GET" and _readable(inside, grant)


_METHODS = {
    "data": ("GET", "POST", "PUT", "PATCH", "DELETE"),
    "metadata": ("GET", "DELETE"),  # LIST is no method of HTTP: all servers take GET ?list=true for it
    "delete": ("POST", "PUT"),
    "undelete": ("POST", "PUT"),
    "destroy": ("POST", "PUT"),
}


def _within(path: str, folder: str) -> bool:
    return path.rstrip("/") == folder or path.startswith(f"{folder}/")


def _readable(path: str, grant: Mapping[str, Any]) -> bool:
    return any(path.startswith(one[:-1]) if one.endswith("*") else path == one for one in grant["readable"])


async def _ask(request: web.BaseRequest, caller: Caller, path: str, body: bytes) -> web.StreamResponse:
    from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web
    from yarl import URL

    grant = caller.grant
    url = URL(f"{grant['address']}/{path}", encoded=True).with_query(dict(request.rel_url.query))
    tls = await asyncio.to_thread(_tls, grant) if url.scheme == "https" else True
    headers = {name: request.headers[name] for name in _SENT if name in request.headers}
    headers |= {"X-Vault-Token": grant["token"], "X-Vault-Request": "true"}
    if grant["namespace"]:
        headers["X-Vault-Namespace"] = grant["namespace"]
    async with (
        # For one request: they are rare, and so no worklet's connection is ever another's.
        ClientSession(
            connector=TCPConnector(ssl=tls), cookie_jar=DummyCookieJar(), trust_env=url.host not in _LOOPBACK
        ) as http,
        http.request(request.method, url, headers=headers, data=body or None, allow_redirects=False) as found,
    ):
        if 300 <= found.status < 400:
            return _away(caller, "VAULT_ADDR is not the active server")
        told = await _read(found.content, _MOST_ANSWERED)
        if told is None:
            return _refusal(502, "Vault answered with more than Flow passes on.")
        # The look at one's own token tells the token.
        told = told.replace(grant["token"].encode(), _own_token(request).encode())
        return web.Response(status=found.status, body=told, content_type="application/json")


def _own_token(request: web.BaseRequest) -> str:
    """What the worklet takes for its Vault token; nothing where it sends something else there."""
    given = request.headers.get("X-Vault-Token", "")
    return given if _TOKEN.fullmatch(given) else ""


async def _read(content: Any, most: int) -> bytes | None:
    """None: it is longer."""
    parts, size = list[bytes](), 0
    async for chunk in content.iter_any():
        if (size := size + len(chunk)) > most:
            return None
        parts.append(chunk)
    return b"".join(parts)


def _tls(grant: Mapping[str, Any]) -> ssl.SSLContext:
    files = tuple(grant[name] for name in ("ca_cert", "client_cert", "client_key"))
    # A renewed file under the same name counts.
    stamps = tuple(Path(file).stat().st_mtime_ns if file else 0 for file in files)
    return _context(*files, bool(grant["skip_verify"]), stamps)


@lru_cache(maxsize=8)
def _context(ca: str | None, cert: str | None, key: str | None, skip: bool, _stamps: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if skip:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if cert:
        context.load_cert_chain(cert, key)
    return context


def _away(caller: Caller, why: str) -> web.Response:
    log.warning("Vault unreachable for a worklet", worklet=caller.name, error=why)
    return _refusal(502, f"Flow cannot reach Vault: {why}. Try again later.")


def _refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """As Vault words its own errors, which its clients show."""
    from aiohttp import web

    return web.json_response({"errors": [sentence]}, status=status, headers=headers)
