"""A worklet's way to its session's repository: git's smart HTTP at `/flow/git/<name>/…` of its door.

The repository's login is added here, so that it never enters a worklet: a credential helper inside would hand it over.
One repository can be reached, by the three requests that fetching and pushing are made of (gitprotocol-http(5)).
Fetching is free. What a push is about is read from it (`worklets.gitpush`): a branch that was not granted is refused
here, before the server hears of it, or people are asked while git waits. What a rule lets through waits too, until
Flow has written down that it did.

The grant, subject "git" (`worklets.gitgrants` makes it):

    {"name", "url", "username", "password", "push": "ask" | "allow" | "never", "own": branch, "granted": [branch],
     "refused": [branch or "*"], "protected": [pattern], "default": branch or null,
     "answers": {request: true or why not},
     "base": branch or null, "api": URL or null, "pulls": true where rules allow them, false where they deny, else null}
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import structlog

from worklets import gitlab, gitpulls
from worklets.answerstream import stream_on
from worklets.gitpulls import LONGEST as FORM
from worklets.gitpulls import NoPullRequest, Opened, PullRequest, read_form
from worklets.gitpush import LONGEST, NotAPush, Push, Reading, refused
from worklets.repositories import is_protected

if TYPE_CHECKING:
    from types import ModuleType

    from aiohttp import ClientResponse, ClientSession, web

    from worklets.gatewayroutes import Caller

SUBJECT = "git"
#: Kinds of events. Fields: session, request, what, repository, branch, own, title; of pull requests base and body too,
#: of pushes whether they delete the branch ("deletes").
WANTED = "push wanted"
UNANSWERED = "push unanswered"  # it has waited for as long as it may. Fields: session, request
OPENED = "pull request opened"  # fields: session, url, number, title, change, called
_PATH = re.compile(r"/flow/git/([a-z0-9][a-z0-9._-]{0,63})/(info/refs|git-upload-pack|git-receive-pack|pulls)")
_SENT = ("Accept", "Accept-Language", "Content-Type", "Git-Protocol", "User-Agent")
_UNPACKED = ("", "gzip", "deflate")  # what aiohttp has undone before we read a request: it goes on plain
_RETURNED = ("Content-Type", "Cache-Control", "Expires", "Pragma")
_SERVICES = ("git-upload-pack", "git-receive-pack")
_ASK_SECONDS = 100.0  # that a push waits for people: Claude's commands end after two minutes
_LOOK_SECONDS = 0.3
_AGAIN_SECONDS = 5.0  # between two events about one question: they may be lost
_MOST_ASKING = 4  # pushes of one worklet that wait for people, or for Flow
_API_SECONDS = 30.0
_ANSWER = 1 << 20  # bytes of what the host says of a pull request
_DRAINED = 64 << 20  # bytes of a refused pack that are read, so that git reads the answer

_RULE = "a rule of Flow's administrator, of this channel or of this thread says no"
_NO_DELETING = "only the session's own branch can be deleted from here"

Verdict = Callable[[Mapping[str, Any]], "str | bool | None"]

log = structlog.get_logger(__name__)


class GitDoor:
    """One per process that serves a gateway."""

    def __init__(self, *, patience: float = _ASK_SECONDS) -> None:
        self._patience = patience
        self._asking: dict[str, int] = {}

    async def answer(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """See `worklets.gatewayroutes.Handler`."""
        found = _PATH.fullmatch(request.rel_url.raw_path)
        if found is None:
            return _said(
                404, "Flow's gateway serves fetching from and pushing to a session's repository, nothing else."
            )
        grant: Mapping[str, Any] | None = caller.grant
        if not grant or grant["name"] != found[1]:
            return _said(403, "This session has no such repository.")
        if found[2] == "info/refs":
            return await self._refs(request, grant)
        if found[2] == "pulls":
            return await self._pull(request, caller, grant)
        if request.method != "POST" or request.content_type != f"application/x-{found[2]}-request":
            return _said(400, "That is no request of git's.")
        if found[2] == "git-upload-pack":
            if request.headers.get("Content-Encoding", "").lower() not in _UNPACKED:
                return _said(415, "Flow's gateway does not know how this is compressed.")
            return await self._forward(request, grant, found[2], request.content.iter_any())
        return await self._push(request, caller, grant)

    async def _refs(self, request: web.BaseRequest, grant: Mapping[str, Any]) -> web.StreamResponse:
        service = request.query.get("service", "")
        if request.method != "GET" or service not in _SERVICES or set(request.query) != {"service"}:
            return _said(403, "Flow's gateway speaks git's smart HTTP only.")
        if service == "git-receive-pack" and grant["push"] == "never":
            return _said(403, "Nothing can be pushed from worklets here: Flow's administrator has set FLOW_PUSH=never.")
        return await self._forward(request, grant, f"info/refs?service={service}", None)

    # -- pushing ---------------------------------------------------------

    async def _push(self, request: web.BaseRequest, caller: Caller, grant: Mapping[str, Any]) -> web.StreamResponse:
        if request.headers.get("Content-Encoding"):
            return _said(415, "A push may not be compressed as a whole.")
        if grant["push"] == "never":
            return _said(403, "Nothing can be pushed from worklets here: Flow's administrator has set FLOW_PUSH=never.")
        try:
            push, begun = await _beginning(request)
        except NotAPush as e:
            log.warning("a push is refused", worklet=caller.name, reason=str(e))
            return await _refusal(request, Push((), frozenset(), 0), {}, f"Flow: {e}.")
        if not push.branches and await request.content.readany():  # after a flush alone nothing was looked at
            return await _refusal(request, push, {}, "Flow: that is no git push.")
        reasons = await self._reasons(push, caller)
        now: Mapping[str, Any] | None = caller.now()  # people took their time: a login or a rule may be another
        reasons |= {name: why for name in push.branches if (why := refusal(name, now)) is not None}
        if reasons:
            log.info("a push is refused", worklet=caller.name, repository=grant["name"], branches=list(reasons))
            return await _refusal(request, push, reasons)
        if push.branches:
            log.info("a push", worklet=caller.name, repository=grant["name"], branches=list(push.branches))

        async def body() -> AsyncIterator[bytes]:
            yield begun
            async for chunk in request.content.iter_any():
                yield chunk

        return await self._forward(request, now or grant, "git-receive-pack", body())

    async def _reasons(self, push: Push, caller: Caller) -> dict[str, str]:
        """Why branches may not be pushed to; nobody is asked where one of them may not be anyway."""
        found = {name: why for name in push.branches if (why := refusal(name, caller.now())) is not None}
        own = (caller.now() or {"own": ""})["own"]
        found |= {name: _NO_DELETING for name in push.deleted if name != own and name not in found}
        if found:
            return found
        for name in push.branches:
            wish = {"what": "push", "branch": name, "title": "", "deletes": name in push.deleted}
            if (why := await self._asked(caller, wish, partial(verdict, name))) is not None:
                return {name: why}
        return {}

    # -- pull requests ---------------------------------------------------------

    async def _pull(self, request: web.BaseRequest, caller: Caller, grant: Mapping[str, Any]) -> web.StreamResponse:
        if request.method != "POST":
            return _said(405, "A pull request is opened by a POST.")
        try:
            wanted = read_form(await _whole(request), grant)
            _forge(grant).request_of(wanted, grant)
            wish = {"what": "pull request", "branch": wanted.head, "title": wanted.title, "base": wanted.base}
            wish["body"] = wanted.body
            if (why := await self._asked(caller, wish, pull_verdict)) is not None:
                raise NoPullRequest(why)
            if (now := caller.now()) is None:
                raise NoPullRequest("the session has ended")
            if isinstance(against := pull_verdict(now), str):
                raise NoPullRequest(against)
            opened = await self._open(wanted, now)
        except NoPullRequest as e:
            log.info("a pull request is refused", worklet=caller.name, repository=grant["name"], reason=str(e))
            return _said(403, f"No pull request was opened: {e}.")
        log.info("a pull request", worklet=caller.name, repository=grant["name"], number=opened.number)
        caller.tell(
            OPENED, session=caller.worklet_id, url=opened.url, number=opened.number, title=wanted.title,
            change=opened.change, called=opened.called,
        )  # fmt: skip
        return _said(200, f"Opened {opened.url} {opened.change}".strip())

    async def _open(self, wanted: PullRequest, grant: Mapping[str, Any]) -> Opened:
        """Raises NoPullRequest."""
        from aiohttp import ClientError

        forge = _forge(grant)
        url, headers, body = forge.request_of(wanted, grant)
        try:
            async with (
                asyncio.timeout(_API_SECONDS),
                _http() as http,
                http.post(url, headers=headers, json=body, allow_redirects=False, proxy=_proxy_of(url)) as answer,
            ):
                data = b""
                async for chunk in answer.content.iter_chunked(65_536):
                    data += chunk
                    if len(data) > _ANSWER:
                        raise NoPullRequest("the repository's host said too much")
                opened: Opened = forge.read_answer(answer.status, data)
                return opened
        except (ClientError, TimeoutError, OSError) as e:
            raise NoPullRequest(f"the repository's host cannot be reached ({type(e).__name__})") from e

    # -- people ---------------------------------------------------------

    async def _asked(self, caller: Caller, wish: Mapping[str, Any], verdict: Verdict) -> str | None:
        """None: people said yes, or a rule did and that is written down."""
        if self._asking.get(caller.name, 0) >= _MOST_ASKING:
            return f"{_MOST_ASKING} pushes wait for an answer already; try again once they have it"
        self._asking[caller.name] = self._asking.get(caller.name, 0) + 1
        try:
            return await self._wait(caller, wish, verdict, secrets.token_hex(8))
        finally:
            self._asking[caller.name] -= 1
            if not self._asking[caller.name]:
                del self._asking[caller.name]

    async def _wait(self, caller: Caller, wish: Mapping[str, Any], verdict: Verdict, number: str) -> str | None:
        loop, passes = asyncio.get_running_loop(), False
        end, told = loop.time() + self._patience, 0.0
        while (now := loop.time()) < end:
            grant = caller.now()
            if grant is None:
                return "the session has ended"
            if (answer := grant["answers"].get(number)) is not None:
                return None if answer is True else str(answer)
            if isinstance(why := verdict(grant), str):
                return why
            passes = why is True
            if now - told >= _AGAIN_SECONDS:
                told = now
                asked = {"repository": grant["name"], "own": grant["own"], **wish}
                caller.tell(WANTED, session=caller.worklet_id, request=number, **asked)
            await asyncio.sleep(_LOOK_SECONDS)
        caller.tell(UNANSWERED, session=caller.worklet_id, request=number)
        if passes:
            return (
                "a rule lets it through, but Flow did not answer, which has to write that down; try again in a moment"
            )
        return (
            f"people in the thread did not answer within {self._patience:.0f} seconds; try again once they have, or "
            "now if the thread shows no question about it"
        )

    # -- the repository's host ---------------------------------------------------------

    async def _forward(
        self, request: web.BaseRequest, grant: Mapping[str, Any], path: str, body: AsyncIterator[bytes] | None
    ) -> web.StreamResponse:
        from aiohttp import ClientError
        from yarl import URL

        url = URL(f"{grant['url']}/{path}")
        headers = {name: request.headers[name] for name in _SENT if name in request.headers}
        if grant["username"] or grant["password"]:
            login = base64.b64encode(f"{grant['username']}:{grant['password']}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        async with _http() as http:
            try:
                answer = await http.request(
                    request.method, url, headers=headers, data=body, allow_redirects=False, proxy=_proxy_of(str(url))
                )
            except (ClientError, TimeoutError, OSError) as e:
                log.warning("a repository's host cannot be reached", repository=grant["name"], error=type(e).__name__)
                return _said(502, f"Flow cannot reach {grant['url']}: {type(e).__name__}.")
            if 300 <= answer.status < 400:
                return _said(502, f"{grant['url']} has moved; Flow's administrator has to correct FLOW_REPOSITORIES.")
            if answer.status in (401, 403):  # git would ask for a login that nobody may have in here
                return _said(403, f"{grant['url']} does not let Flow in (HTTP {answer.status}).")
            return await _pass_on(request, answer)


def _forge(grant: Mapping[str, Any]) -> ModuleType:
    """What speaks the API of the repository's host."""
    return gitlab if gitlab.is_gitlab(grant) else gitpulls


def _http() -> ClientSession:
    """For one request: those of git are few, and far apart."""
    from aiohttp import ClientSession, ClientTimeout, DummyCookieJar

    return ClientSession(
        timeout=ClientTimeout(total=None, sock_connect=15, sock_read=600),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
    )


def _proxy_of(url: str) -> str | None:
    """As the environment says; aiohttp's own way to ask it would add the logins of ~/.netrc too."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc.rpartition("@")[2]) else getproxies().get(parts.scheme)


def refusal(branch: str, grant: Mapping[str, Any] | None) -> str | None:
    """Why nobody need be asked whether this branch may be pushed to; None: it may be, or people can say so."""
    if grant is None:
        return "the session has ended"
    if is_protected(branch, tuple(grant["protected"]), grant["default"]):
        return "the branch is protected; push to this session's own and open a pull request"
    if branch in grant["refused"] or "*" in grant["refused"]:
        return _RULE
    return None


def is_granted(branch: str, grant: Mapping[str, Any] | None) -> bool:
    if grant is None or refusal(branch, grant) is not None:
        return False
    return branch in grant["granted"] or (grant["push"] == "allow" and branch == grant["own"])


def verdict(branch: str, grant: Mapping[str, Any]) -> str | bool | None:
    """True: it may be pushed to. A text: why not. None: people have to say."""
    return refusal(branch, grant) or is_granted(branch, grant) or None


def pull_verdict(grant: Mapping[str, Any]) -> str | bool | None:
    """The same of pull requests of the session's own branch."""
    if grant["push"] == "never":
        return "Flow's administrator has set FLOW_PUSH=never"
    if grant["pulls"] is False:
        return _RULE
    return True if grant["pulls"] else None


async def _whole(request: web.BaseRequest) -> bytes:
    """Raises NoPullRequest."""
    data = b""
    while chunk := await request.content.readany():
        data += chunk
        if len(data) > FORM:
            raise NoPullRequest("its text is too long")
    return data


async def _beginning(request: web.BaseRequest) -> tuple[Push, bytes]:
    """What it is about, and all that was read of it. Raises NotAPush."""
    data, reading = bytearray(), Reading()
    while (push := reading.read(data)) is None:
        chunk = await request.content.readany()
        if not chunk:
            raise NotAPush("it ended before it had begun")
        data += chunk
        if len(data) > LONGEST + (1 << 20):
            raise NotAPush("the list of branches is too long")
    return push, bytes(data)


async def _refusal(
    request: web.BaseRequest, push: Push, reasons: Mapping[str, str], said: str | None = None
) -> web.StreamResponse:
    """As the server would refuse it, so that git shows why. Its pack is read, as far as it is not endless."""
    from aiohttp import web

    left = _DRAINED
    with suppress(ConnectionError):
        while left > 0 and (chunk := await request.content.readany()):
            left -= len(chunk)
    if said is not None:
        return _said(403, said)
    response = web.Response(body=refused(push, reasons), content_type="application/x-git-receive-pack-result")
    if left <= 0:
        response.force_close()
    return response


async def _pass_on(request: web.BaseRequest, answer: ClientResponse) -> web.StreamResponse:
    from aiohttp import web

    response = web.StreamResponse(status=answer.status)
    for name in (*_RETURNED, "Content-Encoding"):
        if name in answer.headers:
            response.headers[name] = answer.headers[name]
    await stream_on(request, response, answer)
    return response


def _said(status: int, text: str) -> web.Response:
    """Git shows plain text of a refused first request to whoever called it."""
    from aiohttp import web

    return web.Response(status=status, text=f"{text}\n", content_type="text/plain")
