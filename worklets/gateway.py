"""The model gateway: a worklet's way to the Messages API, where the credential is added that it never holds.

Each worklet has its own Unix socket, `gateway.sock` in its run directory, and its own token, which the CLI
sends as its API key. The gateway checks the token, and lets the Messages API through and nothing else
(`worklets.gatewaymodel`).

Through the same socket a worklet reaches the key-value store (`worklets.kvdoor`) and what else Flow grants it
(`worklets.gatewayroutes`). Where it may reach other hosts, that is through a socket beside it (`worklets.egressproxy`).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

import structlog

from worklets.egressgrants import SUBJECT as EGRESS
from worklets.gatewaymodel import Credential, Model, api_error
from worklets.gatewayroutes import Caller, Handler, Tell, grant_of, subject_of
from worklets.gatewayusage import UsageBook
from worklets.identity import Identity
from worklets.sidecargrants import ways_out

if TYPE_CHECKING:
    from aiohttp import web

    from worklets.egressdoors import Egress
    from worklets.gatebeyond import Beyond
    from worklets.gatewaydoor import Door, Traffic
    from worklets.kvdoor import StoreDoor

log = structlog.get_logger(__name__)


class Doors(Protocol):
    """What the worklets' host needs of a gateway."""

    async def open(
        self, name: str, run_dir: Path, worklet_id: str | None = None, grants: Mapping[str, Any] | None = None
    ) -> None:
        """Listens at `run_dir/gateway.sock` for the worklet `name`; one that does so stays. Raises OSError.

        `worklet_id`, a uuid, is whose key-value store can be reached there, `grants` what else may be, by subject:
        JSON. None: as before, else nobody's and nothing.
        """

    async def close(self, name: str) -> None:
        """Ends the worklet's requests and its socket. Idempotent."""

    async def limit(self, name: str, dollars: float | None, spent: float = 0.0, of: str = "") -> None:
        """What the worklet may still spend on the model from now on; None: as much as it takes.

        `spent` is what is known already of what the turn `of` has cost: see `UsageBook.limit`.
        """


class ModelGateway:
    """Serves the Messages API at `upstream` to worklets. One per program; close it with `aclose`."""

    def __init__(
        self,
        upstream: str,
        credential: Credential | None,
        identity: Identity,
        store: StoreDoor | None = None,
        egress: Egress | None = None,
        *,
        routes: Mapping[str, Handler] | None = None,
        tell: Tell = lambda _kind, **_fields: None,
        usage: UsageBook | None = None,
        beyond: Beyond | None = None,
    ) -> None:
        """`store` and `egress` are served too, and closed with the gateway; `beyond` leads to worklets elsewhere.

        `routes` serve `/flow/<subject>/…`, by subject; `tell` says to the bots what they should know. `usage` is where
        answers are counted, and says who gets no more.
        """
        self.usage = usage or UsageBook()
        self.model = Model(upstream, credential, self.usage)
        self.tell = tell
        self._routes = dict(routes or {})
        self.running = 0  # requests on their way
        self.last_request = time.monotonic()  # when the last one ended
        self._identity, self._store, self._egress = identity, store, egress
        self._beyond = beyond
        self._doors: dict[str, Door] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # at each door

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault(name, asyncio.Lock())

    async def open(
        self, name: str, run_dir: Path, worklet_id: str | None = None, grants: Mapping[str, Any] | None = None
    ) -> None:
        """Listens at `run_dir/gateway.sock` for the worklet `name`. Raises OSError.

        A door that stands there already is left as it is, with the requests that pass through it; one whose socket was
        taken away is made anew. `worklet_id` and `grants` count from its next request on; None: what was said last.
        """
        async with self._turn(name):
            await self._open(name, run_dir, worklet_id, grants)

    async def _open(
        self, name: str, run_dir: Path, worklet_id: str | None = None, grants: Mapping[str, Any] | None = None
    ) -> None:
        door = self._doors.get(name)
        if door is not None and grants is None:  # also of one that the agent took away: they tighten what it reaches
            grants = door.grants
        given = dict(grants or {})
        worklet_id = worklet_id or (door.worklet_id if door else None)
        if door is not None and not door.stands(run_dir):
            await self._close(name)
            door = None
        try:
            if self._store is not None and worklet_id is not None:
                # Before the socket: what Claude starts, with the model's first answer, has its token.
                await self._store.tokens.keep(run_dir, worklet_id)
            if door is None:
                self._doors[name] = door = await self._made(name, run_dir)
        except BaseException:
            if door is None and self._store is not None:  # nobody closes a door that is not there
                await self._store.tokens.drop(run_dir)
            raise
        ways = ways_out(name, given)
        if self._egress is not None:
            for gone in ways_out(name, door.grants).keys() - ways.keys():
                await self._egress.close(gone)
        door.worklet_id, door.grants = worklet_id, given
        if self._egress is not None:
            for beside, (directory, grant) in ways.items():
                await self._egress.open(beside, directory, grant)
            await self._egress.open(name, run_dir, grant_of(door.grants, EGRESS))
        if self._beyond is not None:
            self._beyond.open(name, run_dir)

    async def regrant(self, name: str, subject: str, value: Any, was: Any) -> None:
        """One subject of a door, from its next request on; nothing where it is not `was` (None: not there) any more."""
        async with self._turn(name):
            door = self._doors.get(name)
            if door is not None and door.grants.get(subject) == was:
                await self._open(name, door.run_dir, grants={**door.grants, subject: value})

    async def _made(self, name: str, run_dir: Path) -> Door:
        from worklets.gatewaydoor import Door, Traffic, is_to_store
        from worklets.kvdoor import Places

        traffic, places = Traffic(), Places()
        token = self._identity.token("gateway", name)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if self._store is not None and is_to_store(request):
                return await self._store.answer(request, door.worklet_id, places)
            if not _is_token(request, token):
                return _wrong_token()
            if (subject := subject_of(request.rel_url.raw_path)) is not None:
                return await self._route(request, subject, door)
            if (refused := self.model.refusal(request, door.name)) is not None:
                return refused
            with self._counted():
                return await self.model.forward(request, door)

        door = Door(name, run_dir, handle, traffic)
        await door.listen()
        return door

    async def _route(self, request: web.BaseRequest, subject: str, door: Door) -> web.StreamResponse:
        handler = self._routes.get(subject)
        if handler is None:
            return api_error(404, "not_found_error", f"Flow's gateway does not serve {request.rel_url.raw_path}.")
        caller = Caller(
            door.name,
            door.worklet_id,
            grant_of(door.grants, subject),
            lambda: grant_of(door.grants, subject) if self._doors.get(door.name) is door else None,
            self.tell,
            door.at_end,
        )
        with self._counted():
            return await handler(request, caller)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """As running: what goes on there must not be cut off by the gateway's end."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self.last_request = time.monotonic()

    async def close(self, name: str) -> None:
        """Ends the worklet's requests and its socket. Idempotent."""
        async with self._turn(name):
            await self._close(name)
            self.usage.forget(name)

    async def _close(self, name: str) -> None:
        """What it may spend still counts: the agent can have its door made anew by removing the socket."""
        if self._beyond is not None:
            self._beyond.close(name)
        if self._egress is not None:
            for one in (name, *(ways_out(name, self._doors[name].grants) if name in self._doors else ())):
                await self._egress.close(one)
        if door := self._doors.pop(name, None):
            try:
                if self._store is not None:
                    await self._store.tokens.drop(door.run_dir)
            finally:
                await door.close()  # nobody else does any more

    async def limit(self, name: str, dollars: float | None, spent: float = 0.0, of: str = "") -> None:
        """See `Doors.limit`. What is on its way goes on."""
        self.usage.limit(name, dollars, spent, of)

    def shut(self) -> None:
        """No door takes a new connection any more; `finish` or `aclose` should follow."""
        for door in self._doors.values():
            door.shut()
        if self._egress is not None:
            self._egress.shut()
        if self._beyond is not None:
            self._beyond.shut()

    async def finish(self) -> None:
        """Lets running requests end in their own time, takes no new ones, and is closed then."""
        if self._store is not None:
            await self._store.close()
        ways = [self._egress.finish()] if self._egress is not None else []
        await asyncio.gather(*(door.finish() for door in self._doors.values()), *ways)
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every socket and the connections to the API."""
        doors = list(self._doors.values())
        self._doors.clear()  # tokens stay: other gateways may have opened these doors anew
        await asyncio.gather(*(door.close() for door in doors))
        if self._store is not None:
            await self._store.aclose()
        if self._egress is not None:
            await self._egress.aclose()
        if self._beyond is not None:
            await self._beyond.aclose()
        await self.model.aclose()

    def doors(self) -> dict[str, Path]:
        """The run directories of the worklets whose doors are open, by name."""
        return {name: door.run_dir for name, door in self._doors.items()}

    def worklets(self) -> dict[str, str]:
        """Whose stores can be reached: the worklets' ids, by name."""
        return {name: door.worklet_id for name, door in self._doors.items() if door.worklet_id is not None}

    def grants(self) -> dict[str, dict[str, Any]]:
        """What each worklet was granted, by name and subject."""
        return {name: door.grants for name, door in self._doors.items()}

    def egress(self) -> dict[str, Any]:
        """What goes out: see `Egress.state`. Empty where nothing may."""
        return self._egress.state() if self._egress is not None else {}

    def traffic(self, name: str) -> Traffic:
        """What the worklet has asked since its door opened."""
        from worklets.gatewaydoor import Traffic

        return self._doors[name].traffic if name in self._doors else Traffic()


def _is_token(request: web.BaseRequest, token: str) -> bool:
    given = _presented(request.headers).encode("utf-8", "surrogateescape")  # any bytes, as aiohttp has read them
    return hmac.compare_digest(given, token.encode())


def _presented(headers: Mapping[str, str]) -> str:
    """The token as programs send it: the CLI as x-api-key or a bearer, git as a password, Vault's in their header."""
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            return base64.b64decode(given, validate=True).decode("latin-1").partition(":")[2]
    named = headers.get("x-api-key") or headers.get("X-Vault-Token")
    return named or (given.strip() if scheme.lower() == "bearer" else "")


def _wrong_token() -> web.Response:
    return api_error(401, "authentication_error", "This is not the token of this worklet.", final=True)
