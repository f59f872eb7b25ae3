"""Previews: servers in worklets, each at a host name of its own, for whoever has a link that was signed for them.

A host name of its own keeps what a worklet serves away from Flow's own pages and from other previews: it is what
browsers keep apart. A request for such a host never reaches Flow's routes, whatever its path.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from config.errors import FlowError
from config.logging import get_logger
from sessions.errors import SessionNotFound
from sessions.previews import PARAMETER, Links, Preview, Previews
from sessions.types import SessionId
from web.previewpages import Visit, closed, notice
from web.previewpassage import Passage
from web.previewservers import REACHED_SECONDS, Servers

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

log = get_logger(__name__)

MOST = 128  # requests and WebSockets of one preview at a time
_NOTE_SECONDS = 60.0
_LOOK_SECONDS = 3.0  # between two looks whether what is open may stay open
_IDLE_SECONDS = 60.0  # how long what is kept for a preview outlasts its last request
_CACHED, _CACHE_SECONDS = 1_000, 2.0  # previews that are known; how long


class PreviewHosts:
    """Answers for every host that `links.url` can mean, whatever it is by then. Close it with `aclose`."""

    def __init__(
        self,
        previews: Previews,
        links: Links,
        run_dir: Callable[[SessionId], Awaitable[Path]],
        wake: Callable[[SessionId], Awaitable[None]],
        visited: Callable[[SessionId], Awaitable[None]],
        *,
        expires: float,
        reached: float = REACHED_SECONDS,
    ) -> None:
        """`run_dir` is a session's worklet's; `wake` returns when the worklet runs, `visited` keeps it awake.

        `expires`: seconds of a cookie. `reached`: seconds for the way into a worklet that runs.
        """
        self._previews, self._links, self._run_dir = previews, links, run_dir
        self._servers = Servers(run_dir, wake, reached)
        self._passage = Passage(links, self._servers, self._cookie)
        self._visited, self._noted = visited, dict[str, float]()  # loop time of the last note, by preview
        self._expires = expires
        self._cached: dict[str, tuple[float, Preview | None]] = {}
        self._open: dict[str, dict[asyncio.Timeout, web.Request]] = {}  # what is on its way
        self._used: dict[str, float] = {}  # loop time of the last request; what is kept for it goes some time later
        self._tending: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        await self._servers.aclose()
        await self._passage.aclose()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._is_below(request.host):
            return await handler(request)
        try:
            return await self._answer(request)
        except SessionNotFound:
            return closed()
        except FlowError as error:
            log.warning("a preview cannot be shown", host=request.host, error=error.sentence())
            return notice(503, "Flow cannot look this preview up now", "Try again in a moment.")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        preview_id = self._named(request.host)
        preview = await self._known(preview_id) if preview_id is not None else None
        if preview is None:
            return closed()
        if (token := request.query.get(PARAMETER)) is not None:
            return self._enter(request, preview, token)
        if (allowed := await self._preflight(request, preview)) is not None:
            return allowed
        until = self._links.until("cookie", preview.id, request.cookies.get(self._cookie, ""))
        if until is None:
            return notice(403, "This preview is for the people of its thread", "Press *Open preview* in Slack.")
        page = await self._asking_page(request, preview)
        if page is None:
            return notice(403, "Another site's page asked for this", "Pages of the same thread's previews may.")
        return await self._serve(Visit(request, preview, page, until))

    async def _known(self, preview_id: str) -> Preview | None:
        """Not asked anew for each of a page's hundred files."""
        now = asyncio.get_running_loop().time()
        until, preview = self._cached.get(preview_id, (0.0, None))
        if until < now:
            if len(self._cached) > _CACHED:
                self._cached.clear()
            preview = await self._previews.get(preview_id)
            self._cached[preview_id] = now + _CACHE_SECONDS, preview
        return preview

    def _is_below(self, host: str) -> bool:
        """All such names lead here, so none of them may be answered by Flow's own routes."""
        after = self._links.url.partition("*")[2]
        return bool(after) and _bare(host).endswith(_bare(after))

    def _named(self, host: str) -> str | None:
        """The id of the preview whose host that is, as in a Host header."""
        before, star, after = self._links.url.partition("://")[2].partition("*")
        name = host.lower()
        if not star or not name.startswith(before) or not name.endswith(after):
            return None
        preview_id = name[len(before) : len(name) - len(after)]
        return preview_id if re.fullmatch(r"[0-9a-f]{16}", preview_id) else None

    @property
    def _secure(self) -> bool:
        return self._links.url.startswith("https:")

    @property
    def _cookie(self) -> str:
        return "__Host-flow-preview" if self._secure else "flow-preview"

    async def _asking_page(self, request: web.Request, preview: Preview) -> Preview | None:
        """The preview whose page asks: this one, or one of the same thread. None: a page that has no business here.

        Previews are hosts below one domain, so browsers send along the cookie when another one's page asks, and other
        code runs there. They tell whose page it is (RFC 6454, W3C Fetch Metadata).
        """
        origin = request.headers.get("Origin", "")
        if origin == self._links.address(preview):
            return preview
        if not origin:
            # A link may lead here from anywhere; a frame or an image may not.
            elsewhere = request.headers.get("Sec-Fetch-Site") in ("same-site", "cross-site")
            return None if elsewhere and request.headers.get("Sec-Fetch-Dest") != "document" else preview
        return await self._sibling(origin, preview)

    async def _sibling(self, origin: str, preview: Preview) -> Preview | None:
        """The preview of the same thread whose address that is."""
        preview_id = self._named(origin.partition("://")[2])
        page = await self._known(preview_id) if preview_id is not None else None
        if page is None or origin != self._links.address(page) or page.session_id != preview.session_id:
            return None
        return page

    async def _preflight(self, request: web.Request, preview: Preview) -> web.Response | None:
        """Browsers ask beforehand, without cookies, so nobody can be known: what it asks for does have the cookie."""
        asked = request.headers
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in asked:
            return None
        page = await self._sibling(asked.get("Origin", ""), preview)
        if page is None:
            return None
        headers = {
            "Access-Control-Allow-Origin": self._links.address(page), "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": asked["Access-Control-Request-Method"], "Vary": "Origin",
        }  # fmt: skip
        if names := asked.get("Access-Control-Request-Headers"):
            headers["Access-Control-Allow-Headers"] = names
        return web.Response(status=204, headers=headers)

    def _enter(self, request: web.Request, preview: Preview, token: str) -> web.Response:
        """Trades a link for a cookie, so that its token stands in no address, no history and no Referer."""
        user_id = self._links.user("link", preview.id, token)
        if user_id is None:
            return notice(403, "This link has expired", "Press *Open preview* in Slack again.")
        log.info("a preview is visited", preview=preview.id, session=preview.session_id, by=user_id)
        there = request.rel_url.without_query_params(PARAMETER).raw_path_qs
        # More slashes than one would name another host.
        location = "/" + there.lstrip("/\\")
        answer = web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})
        cookie = self._links.sign("cookie", preview.id, user_id, self._expires)
        answer.set_cookie(
            self._cookie,
            cookie,
            max_age=int(self._expires),
            httponly=True,
            secure=self._secure,
            samesite="Lax",
            path="/",
        )
        return answer

    async def _serve(self, visit: Visit) -> web.StreamResponse:
        """Until the cookie's end, or until the preview is closed."""
        preview, request = visit.preview, visit.request
        mine = self._open.setdefault(preview.id, {})
        if len(mine) >= MOST:
            return notice(503, "Too many requests at once", f"A preview serves {MOST} at a time.")
        self._tend()
        limit = asyncio.timeout(visit.until - time.time())
        try:
            async with limit:
                mine[limit] = request
                try:
                    return await self._reach(visit)
                finally:
                    del mine[limit]
        except TimeoutError:
            if not limit.expired():
                raise
            if request.transport is not None:
                request.transport.abort()  # what was begun must not look whole
            return closed()
        finally:
            self._used[preview.id] = asyncio.get_running_loop().time()
            if not mine and self._open.get(preview.id) is mine:
                del self._open[preview.id]

    async def _reach(self, visit: Visit) -> web.StreamResponse:
        run_dir = await self._run_dir(visit.preview.session_id)
        if (missing := await self._servers.missing(visit, run_dir)) is not None:
            return missing
        await self._note(visit)
        return await (self._passage.websocket if visit.is_websocket else self._passage.http)(visit, run_dir)

    def _tend(self) -> None:
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tended(), name="previews: tend")

    async def _tended(self) -> None:
        """Ends what a closed preview has open, and forgets what is not used; as long as there is anything."""
        while self._open or self._used or self._noted:
            await asyncio.sleep(_LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            try:
                gone = set(self._open) - await self._previews.standing(list(self._open))
            except FlowError as error:
                log.debug("whether previews are closed is looked at later", error=error.sentence())
                gone = set()
            for preview_id in gone:
                for limit, request in list(self._open.get(preview_id, {}).items()):
                    if not limit.expired():
                        log.info("a closed preview's connection is ended", preview=preview_id, path=request.path)
                        limit.reschedule(now)
            self._noted = {one: at for one, at in self._noted.items() if at + _NOTE_SECONDS > now}
            for preview_id in [one for one, at in self._used.items() if at + _IDLE_SECONDS < now]:
                if preview_id not in self._open and not self._servers.is_waking(preview_id):
                    await self._forget(preview_id)

    async def _forget(self, preview_id: str) -> None:
        self._used.pop(preview_id, None)
        self._servers.forget(preview_id)
        await self._passage.forget(preview_id)

    async def _note(self, visit: Visit) -> None:
        """A page that somebody opens keeps the thread awake; one that is left open, with its connections, does not."""
        now, preview = asyncio.get_running_loop().time(), visit.preview
        if not visit.is_opened:
            return
        if self._noted.get(preview.id, 0.0) + _NOTE_SECONDS > now:
            return
        self._noted[preview.id] = now
        try:
            await self._visited(preview.session_id)
        except FlowError as error:
            log.debug("a visit was not noted", error=error.sentence())


def _bare(host: str) -> str:
    """Without a port and a root's dot."""
    return re.sub(r":\d*$", "", host.lower()).rstrip(".")
