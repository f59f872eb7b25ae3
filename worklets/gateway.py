"""The model gateway: a worklet's way to the Messages API, where the credential is added that it never holds.

Each worklet has its own Unix socket, `gateway.sock` in its run directory, and its own token, which the CLI
sends as its API key. The gateway lets the Messages API through and nothing else, swaps the token for the
credential, and streams both ways: nothing is buffered, unpacked or worded anew. Only what the gateway itself
has to say (wrong token, no credential, upstream away) is worded here, in the API's own error shape.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from worklets.errors import NoCredential
from worklets.identity import Identity

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession, web

    from worklets.gatewaydoor import Door, Traffic

#: What a worklet may ask for. Message batches are left out: they would go on spending after the worklet's end.
_ALLOWED = (
    ("POST", re.compile(r"/v1/messages")),
    ("POST", re.compile(r"/v1/messages/count_tokens")),
    ("GET", re.compile(r"/v1/models(/[A-Za-z0-9][A-Za-z0-9._@:-]*)?")),
)
#: RFC 9110 7.6.1, and what must not pass from one side to the other: names, credentials, cookies.
_HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
}  # fmt: skip
_NOT_SENT = _HOP_BY_HOP | {"host", "authorization", "x-api-key", "cookie", "proxy-authorization", "forwarded"}
_NOT_RETURNED = _HOP_BY_HOP | {"set-cookie", "set-cookie2", "proxy-authenticate", "alt-svc"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")  # no proxy of the environment on the way there
_OAUTH_BETA = "oauth-2025-04-20"  # without it the API refuses tokens of `claude setup-token`

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Credential:
    """What the upstream API takes: an API key, or an OAuth token of `claude setup-token`; the key wins."""

    api_key: str | None = field(default=None, repr=False)
    oauth_token: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return bool(self.api_key or self.oauth_token)

    def betrayed_by(self, text: str) -> bool:
        return any(secret and secret in text for secret in (self.api_key, self.oauth_token))


class Doors(Protocol):
    """What the worklets' host needs of a gateway."""

    async def open(self, name: str, run_dir: Path) -> None:
        """Listens at `run_dir/gateway.sock` for the worklet `name`; does nothing where it does so. Raises OSError."""

    async def close(self, name: str) -> None:
        """Ends the worklet's requests and its socket. Idempotent."""


@dataclass(frozen=True, slots=True)
class _Upstream:
    """Where requests go and with what; a request keeps the one that it began with."""

    url: str
    credential: Credential


class ModelGateway:
    """Serves the Messages API at `upstream` to worklets. One per program; close it with `aclose`."""

    def __init__(self, upstream: str, credential: Credential | None, identity: Identity) -> None:
        self.running = 0  # requests on their way
        self.last_request = time.monotonic()  # when the last one ended
        self._identity = identity
        self._sessions: dict[bool, ClientSession] = {}
        self._doors: dict[str, Door] = {}
        self.configure(upstream, credential)

    def configure(self, upstream: str, credential: Credential | None) -> None:
        """Where requests go from now on, and with what credential. Those on their way are not touched."""
        self._upstream = _Upstream(upstream.rstrip("/"), credential or Credential())

    async def open(self, name: str, run_dir: Path) -> None:
        """Listens at `run_dir/gateway.sock` for the worklet `name`. Raises OSError.

        A door that stands there already is left as it is, with the requests that pass through it.
        """
        from worklets.gatewaydoor import Door, Traffic

        if (door := self._doors.get(name)) and door.stands(run_dir):
            return
        await self.close(name)
        traffic = Traffic()
        token = self._identity.token("gateway", name)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._answer(request, name, token, traffic)

        door = Door(name, run_dir, handle, traffic)
        await door.listen()
        self._doors[name] = door

    async def close(self, name: str) -> None:
        """Ends the worklet's requests and its socket. Idempotent."""
        if door := self._doors.pop(name, None):
            await door.close()

    def shut(self) -> None:
        """No door takes a new connection any more; `finish` or `aclose` should follow."""
        for door in self._doors.values():
            door.shut()

    async def finish(self) -> None:
        """Lets running requests end in their own time, takes no new ones, and is closed then."""
        await asyncio.gather(*(door.finish() for door in self._doors.values()))
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every socket and the connections to the API."""
        await asyncio.gather(*(self.close(name) for name in list(self._doors)))
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def doors(self) -> dict[str, Path]:
        """The run directories of the worklets whose doors are open, by name."""
        return {name: door.run_dir for name, door in self._doors.items()}

    def traffic(self, name: str) -> Traffic:
        """What the worklet has asked since its door opened."""
        from worklets.gatewaydoor import Traffic

        return self._doors[name].traffic if name in self._doors else Traffic()

    async def _answer(self, request: web.BaseRequest, name: str, token: str, traffic: Traffic) -> web.StreamResponse:
        if not hmac.compare_digest(_presented(request.headers).encode(), token.encode()):
            return _error(401, "authentication_error", "This is not the token of this worklet.", final=True)
        path = request.rel_url.raw_path
        if not any(request.method == method and rule.fullmatch(path) for method, rule in _ALLOWED):
            return _error(404, "not_found_error", f"Flow's gateway does not serve {request.method} {path}.")
        upstream = self._upstream
        if not upstream.credential:
            return _error(401, "authentication_error", NoCredential().sentence(), final=True)
        traffic.requests += 1
        self.running += 1
        try:
            return await self._forward(request, name, upstream, traffic)
        finally:
            self.running -= 1
            self.last_request = time.monotonic()

    async def _forward(
        self, request: web.BaseRequest, name: str, upstream: _Upstream, traffic: Traffic
    ) -> web.StreamResponse:
        from aiohttp import ClientError
        from yarl import URL

        url = URL(upstream.url + request.rel_url.raw_path_qs, encoded=True)
        headers = outgoing(request.headers, upstream.credential)
        body = _counted(request, traffic) if request.body_exists else None
        try:
            answer = await self._client(url.host in _LOOPBACK).request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            )
        except (ClientError, TimeoutError, OSError) as e:
            log.warning("model unreachable", worklet=name, upstream=upstream.url, error=str(e) or type(e).__name__)
            return _error(502, "api_error", f"Flow cannot reach the model at {upstream.url}: {_why(e)}")
        async with answer:
            return await self._pass_on(request, answer, upstream, traffic)

    async def _pass_on(
        self, request: web.BaseRequest, answer: ClientResponse, upstream: _Upstream, traffic: Traffic
    ) -> web.StreamResponse:
        from aiohttp import ClientError, web

        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for key, value in answer.headers.items():
            if key.lower() not in _NOT_RETURNED and not upstream.credential.betrayed_by(value):
                response.headers.add(key, value)
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                traffic.received += len(chunk)
                await response.write(chunk)
            await response.write_eof()
        except (ClientError, TimeoutError) as e:
            # A cut stream must look cut on this side too: a proper end would pass off half an answer as a whole one.
            log.warning("model stream cut", upstream=upstream.url, error=str(e) or type(e).__name__)
            if request.transport is not None:
                request.transport.abort()
        except ConnectionResetError:
            pass  # the CLI went away; leaving `async with answer` ends the request upstream
        return response

    def _client(self, loopback: bool) -> ClientSession:
        if loopback not in self._sessions:
            from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

            # No time limit on the answer: the CLI has its own, and a model may think for long.
            self._sessions[loopback] = ClientSession(
                connector=TCPConnector(limit=0, keepalive_timeout=30),
                timeout=ClientTimeout(total=None, connect=30, sock_connect=15),
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
                trust_env=not loopback,
            )
        return self._sessions[loopback]


def outgoing(headers: Mapping[str, str], credential: Credential) -> dict[str, str]:
    """The CLI's request headers as they go upstream: without its token, with the credential."""
    named = {n.strip().lower() for n in headers.get("Connection", "").split(",")}
    sent = {k: v for k, v in headers.items() if k.lower() not in _NOT_SENT | named}
    if credential.api_key:
        sent["x-api-key"] = credential.api_key
    elif credential.oauth_token:
        sent["Authorization"] = f"Bearer {credential.oauth_token}"
        key = next((k for k in sent if k.lower() == "anthropic-beta"), "anthropic-beta")
        betas = [b.strip() for b in sent.get(key, "").split(",") if b.strip()]
        sent[key] = ",".join([*betas, _OAUTH_BETA] if _OAUTH_BETA not in betas else betas)
    return sent


def _presented(headers: Mapping[str, str]) -> str:
    """The token as the CLI sends it: ANTHROPIC_API_KEY as x-api-key, ANTHROPIC_AUTH_TOKEN as a bearer."""
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    return headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")


async def _counted(request: web.BaseRequest, traffic: Traffic) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_any():
        traffic.sent += len(chunk)
        yield chunk


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time. Check the network."
    with suppress(AttributeError):
        return f"{error.os_error.strerror}. Check ANTHROPIC_BASE_URL and the network."  # type: ignore[attr-defined]
    return f"{str(error) or type(error).__name__}. Check ANTHROPIC_BASE_URL and the network."


def _error(status: int, kind: str, message: str, *, final: bool = False) -> web.Response:
    """An error as the Messages API words its own. `final` asks the client not to repeat the request."""
    from aiohttp import web

    body = {"type": "error", "error": {"type": kind, "message": message}}
    headers = {"x-should-retry": "false"} if final else {}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json", headers=headers)
