"""The model behind worklets' doors: what of the Messages API they may ask for, sent on with the credential.

Bytes are streamed both ways: nothing is buffered, unpacked or worded anew. Only what Flow itself has to say (no
credential, money spent, model away) is worded here, in the API's own error shape.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from worklets.answerstream import stream_on
from worklets.errors import NoCredential
from worklets.gatewaymeter import Meter
from worklets.gatewayusage import UsageBook

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
_NOT_SENT = _HOP_BY_HOP | {
    "host", "authorization", "x-api-key", "x-vault-token", "cookie", "proxy-authorization", "forwarded",
}  # fmt: skip
_NOT_RETURNED = _HOP_BY_HOP | {"set-cookie", "set-cookie2", "proxy-authenticate", "alt-svc"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")  # no proxy of the environment on the way there
_SPENT = "Flow has stopped this thread's requests: its hard limit is spent. Somebody has to allow more in the thread."
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


@dataclass(frozen=True, slots=True)
class _Upstream:
    """Where requests go and with what; a request keeps the one that it began with."""

    url: str
    credential: Credential


class Model:
    """`usage`: where answers are counted, and who gets no more. Close it with `aclose`."""

    def __init__(self, url: str, credential: Credential | None, usage: UsageBook) -> None:
        self.answers = Counter[str]()  # by HTTP status; "none": it could not be reached
        self._usage = usage
        self._sessions: dict[bool, ClientSession] = {}
        self.configure(url, credential)

    def configure(self, url: str, credential: Credential | None) -> None:
        """Where requests go from now on, and with what credential. Those on their way are not touched."""
        self._upstream = _Upstream(url.rstrip("/"), credential or Credential())

    async def aclose(self) -> None:
        """Closes the connections to the API."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def refusal(self, request: web.BaseRequest, worklet: str) -> web.Response | None:
        """Why this request is not sent on, as an answer; None: it may be."""
        path = request.rel_url.raw_path
        if not any(request.method == method and rule.fullmatch(path) for method, rule in _ALLOWED):
            return api_error(404, "not_found_error", f"Flow's gateway does not serve {request.method} {path}.")
        if not self._upstream.credential:
            return api_error(401, "authentication_error", NoCredential().sentence(), final=True)
        if self._usage.refuses(worklet):
            log.warning("a worklet has spent all that it may", worklet=worklet)
            return api_error(403, "permission_error", _SPENT, final=True)
        return None

    async def forward(self, request: web.BaseRequest, door: Door) -> web.StreamResponse:
        """Sends a request on that came through the door, and the answer back; what that cost is counted."""
        from aiohttp import ClientError
        from yarl import URL

        upstream = self._upstream
        door.traffic.requests += 1
        url = URL(upstream.url + request.rel_url.raw_path_qs, encoded=True)
        headers = outgoing(request.headers, upstream.credential)
        body = _counted(request, door.traffic) if request.body_exists else None
        try:
            answer = await self._client(url.host in _LOOPBACK).request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            )
        except (ClientError, TimeoutError, OSError) as e:
            self.answers["none"] += 1
            log.warning("model unreachable", worklet=door.name, upstream=upstream.url, error=str(e) or type(e).__name__)
            return api_error(502, "api_error", f"Flow cannot reach the model at {upstream.url}: {_why(e)}")
        self.answers[str(answer.status)] += 1
        async with answer:
            meter = Meter(answer.content_type, answer.headers.get("Content-Encoding", "").strip().lower())
            try:
                return await self._pass_on(request, answer, upstream, door.traffic, meter)
            finally:  # also what was cut off has cost something, by the door's end too
                if answer.status == 200 and (used := meter.result()) is not None:
                    self._usage.add(door.name, door.worklet_id, used)

    async def _pass_on(
        self, request: web.BaseRequest, answer: ClientResponse, upstream: _Upstream, traffic: Traffic, meter: Meter
    ) -> web.StreamResponse:
        from aiohttp import web

        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for key, value in answer.headers.items():
            if key.lower() not in _NOT_RETURNED and not upstream.credential.betrayed_by(value):
                response.headers.add(key, value)

        def heard(chunk: bytes) -> None:
            traffic.received += len(chunk)
            meter.feed(chunk)

        # Where the CLI went away, leaving `async with answer` ends the request upstream.
        if (cut := await stream_on(request, response, answer, heard)) is not None:
            log.warning("model stream cut", upstream=upstream.url, error=str(cut) or type(cut).__name__)
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
    for key in [k for k in sent if k.lower() == "accept-encoding"]:
        sent[key] = _readable(sent[key])
    if credential.api_key:
        sent["x-api-key"] = credential.api_key
    elif credential.oauth_token:
        sent["Authorization"] = f"Bearer {credential.oauth_token}"
        key = next((k for k in sent if k.lower() == "anthropic-beta"), "anthropic-beta")
        betas = [b.strip() for b in sent.get(key, "").split(",") if b.strip()]
        sent[key] = ",".join([*betas, _OAUTH_BETA] if _OAUTH_BETA not in betas else betas)
    return sent


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


def _readable(encodings: str) -> str:
    """Those of the accepted encodings that the meter can read as well."""
    accepted = [one.strip() for one in encodings.split(",")]
    kept = [one for one in accepted if one.partition(";")[0].strip().lower() in ("gzip", "deflate", "identity")]
    return ", ".join(kept) or "identity"


def api_error(status: int, kind: str, message: str, *, final: bool = False) -> web.Response:
    """An error as the Messages API words its own. `final` asks the client not to repeat the request."""
    from aiohttp import web

    body = {"type": "error", "error": {"type": kind, "message": message}}
    headers = {"x-should-retry": "false"} if final else {}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json", headers=headers)
