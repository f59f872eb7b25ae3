"""The gateway: PostgREST's RPC over HTTP, in front of one backend.

    POST /rest/v1/rpc/{function}   Authorization: Bearer <JWT>   {"p_…": …}

Answers are 200 with the function's result as JSON, or PostgREST's error body. The same object serves the worklets'
doors and Flow's HTTP server.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from typing import Final, Protocol
from weakref import WeakValueDictionary

import structlog
from aiohttp import web

from kvstore.gateway import errors
from kvstore.gateway.answer import CONTENT_TYPE, SHORT, Answer, usual
from kvstore.gateway.backend import Backend
from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import FUNCTIONS, Arguments, validated
from kvstore.gateway.memory import Room, most
from kvstore.gateway.rate import Rate, cost, parts
from kvstore.gateway.watch import POLL_SECONDS, REMOTE_SECONDS, Hub

PATH: Final = "/rest/v1/rpc/"
MAX_BODY_BYTES: Final = 16 * 1_048_576

BODY_SECONDS: Final = 60.0  # for all of a body
_LARGE: Final = 65_536  # bytes of a body that is checked in a thread
_MANY: Final = 2000  # parts of one that is
_PARSED_AT_ONCE: Final = 2  # such bodies: whoever else is served by this process has to wait for them
_EMPTY: Final = 512  # an answer of `kv_watch` that is longer has changes in it
_HEADERS: Final = {"Content-Type": CONTENT_TYPE}

log = structlog.get_logger(__name__)


class Verifies(Protocol):
    """`tokens.Verifier`."""

    def verify(self, token: str, now: float | None = None) -> Caller:
        """Whose the token is. Raises Refusal."""


class KVGateway:
    """Serves `backend`, which the caller opens and closes. `rate`: operations a second that one worklet may do."""

    def __init__(
        self, backend: Backend, verifier: Verifies, *, rate: float, body_seconds: float = BODY_SECONDS
    ) -> None:
        self.backend = backend
        self._body_seconds = body_seconds
        self._parsing = asyncio.Semaphore(_PARSED_AT_ONCE)
        self._parsing_of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # one of each at a time
        self._verifier, self._rate = verifier, Rate(rate)
        self._hub = Hub(self._cursor_of_now, seconds=REMOTE_SECONDS if backend.kind == "supabase" else POLL_SECONDS)

    def routes(self) -> list[web.RouteDef]:
        """For an `aiohttp.web.Application`."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self.handle(request)

        return [web.route("*", PATH + "{function}", handle)]

    async def handle(
        self, request: web.BaseRequest, only: str | None = None, room: Room | None = None
    ) -> web.StreamResponse:
        """Answers a request. `only` is the one worklet whose token is let through, because the door is its own.

        The answer's memory is taken from `room`, which the caller empties when the answer is sent.
        """
        try:
            text = await self._answer(request, only, room or Room())
        except Refusal as e:
            return _refused(e)
        except Exception as e:  # noqa: BLE001 - whatever it is, the client gets the error body that it knows
            # Not its message, which may hold a value.
            where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(e.__traceback__)[-3:]]
            log.error("a request to the key-value store failed", error=type(e).__name__, where=where)
            return _refused(Refusal(500, "XX000", "The gateway failed; Flow's log says where."))
        body = text.encode()
        if len(body) <= SHORT and usual(request):
            return Answer(body)
        return web.Response(body=body, headers=_HEADERS)

    @property
    def watched(self) -> int:
        """Worklets that somebody waits at."""
        return self._hub.watched

    async def close(self) -> None:
        """Those who wait for changes get their answers."""
        await self._hub.close()

    async def _answer(self, request: web.BaseRequest, only: str | None, room: Room) -> str:
        name = request.path.removeprefix(PATH)
        caller = self._verifier.verify(_bearer(request))
        if only is not None and caller.worklet_id != only:
            raise errors.forbidden()
        if name not in FUNCTIONS:
            raise errors.unknown_function(", ".join(FUNCTIONS))
        if request.method != "POST":
            raise Refusal(405, "PGRST101", "Functions are called with POST.")
        who = caller.worklet_id or f"person {caller.owner_id}"
        self._rate.take(who, 1)
        try:
            body = await _body(request, self._body_seconds)
        except (OSError, web.PayloadAccessError, web.RequestPayloadError):
            raise errors.invalid("The request's body broke off.") from None
        arguments = await self._parsed(who, name, body)
        if (items := _items(arguments)) >= 100:
            self._rate.take(who, items // 100)
        return await self._call(caller, name, arguments, room)

    async def _parsed(self, who: str, name: str, body: bytes) -> Arguments:
        """The event loop carries the model's answers to all worklets: no one worklet's body may hold it up for long."""
        found = parts(body)
        if more := cost(len(body), found):
            self._rate.take(who, more)
        if len(body) <= _LARGE and found <= _MANY:
            arguments = _arguments(name, body)
        else:
            async with self._parsing_of.setdefault(who, asyncio.Lock()), self._parsing:
                arguments = await asyncio.to_thread(_arguments, name, body)
        if grown := cost(_length(arguments) - len(body)):  # 1e300 is written out
            self._rate.charge(who, grown)
        return arguments

    async def _call(self, caller: Caller, name: str, arguments: Arguments, room: Room) -> str:
        worklet_id = arguments["p_worklet_id"] or caller.worklet_id
        if name == "kv_watch":
            wait = arguments.pop("p_wait")
            if wait and worklet_id and arguments["p_cursor"] is not None:
                return await self._wait(worklet_id, caller, arguments, wait, room)
        text = await self._ask(caller, name, arguments, room)
        if worklet_id is not None and FUNCTIONS[name].mutates:
            self._hub.ring(worklet_id)
        return text

    async def _ask(self, caller: Caller, name: str, arguments: Arguments, room: Room) -> str:
        reads = sum(step.op == "get" for step in arguments.steps) if name == "kv_transaction" else 0
        if size := most(name, arguments, reads):
            await room.take(size)
        text = await self.backend.call(caller, name, arguments)
        room.keep(len(text))
        return text

    async def _wait(self, worklet_id: str, caller: Caller, arguments: Arguments, seconds: float, room: Room) -> str:
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        if worklet_id != caller.worklet_id:
            await self._cursor_of_now(worklet_id, caller)  # refused, before it takes one of that worklet's places
        with self._hub.watching(worklet_id, caller) as bell:
            while True:
                bell.muffle()
                text = await self._ask(caller, "kv_watch", arguments, room)
                if len(text) > _EMPTY or (left := end - clock()) <= 0 or self._hub.closed:
                    return text
                answer = json.loads(text)
                if answer["changes"] or answer["reset"]:
                    return text
                arguments["p_cursor"] = answer["cursor"]
                room.keep(0)
                if "-" not in answer["cursor"]:  # else there is more to read
                    await bell.wait(answer["cursor"], left)

    async def _cursor_of_now(self, worklet_id: str, caller: Caller) -> str:
        arguments = validated("kv_watch", {"p_worklet_id": worklet_id})
        del arguments["p_wait"]
        return str(json.loads(await self.backend.call(caller, "kv_watch", arguments))["cursor"])


def _bearer(request: web.BaseRequest) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise errors.no_token()
    return token.strip()


async def _body(request: web.BaseRequest, seconds: float) -> bytes:
    """Raises OSError too when it takes longer."""
    if request.content.is_eof():  # it came with its headers
        return await _whole(request)
    async with asyncio.timeout(seconds):
        return await _whole(request)


async def _whole(request: web.BaseRequest) -> bytes:
    """Not `request.read()`, whose limit belongs to the application that the gateway is mounted in."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _body_too_large()
    body = await request.content.readany()
    if request.content.at_eof():
        return body
    whole = bytearray(body)
    while chunk := await request.content.readany():
        whole += chunk
        if len(whole) > MAX_BODY_BYTES:
            raise _body_too_large()
    return bytes(whole)


def _body_too_large() -> Refusal:
    return errors.too_large(f"A request may have {MAX_BODY_BYTES} bytes; send it in parts.")


def _arguments(name: str, body: bytes) -> Arguments:
    try:
        # What a number may be is each argument's own matter.
        found = json.loads(body.decode()) if body else {}
    except (ValueError, RecursionError):
        raise errors.invalid("The body must be a JSON object.") from None
    if not isinstance(found, dict):
        raise errors.invalid("The body must be a JSON object.")
    return validated(name, found)


def _length(arguments: Arguments) -> int:
    """Of the longest argument."""
    return max((len(a) for a in arguments.values() if isinstance(a, str)), default=0)


def _items(arguments: Arguments) -> int:
    """How many entries the request names, or may get."""
    if "p_values" in arguments:
        return int(arguments["p_limit"])
    if "p_entries" in arguments:
        return len(arguments.pairs)
    if "p_operations" in arguments:
        return len(arguments.steps)
    if "p_keys" in arguments:
        return len(arguments["p_keys"])
    return 0


def _refused(refusal: Refusal) -> web.Response:
    headers = dict(_HEADERS)
    if refusal.retry_after is not None:
        headers["Retry-After"] = f"{refusal.retry_after:.3f}"
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=refusal.status, body=json.dumps(refusal.body()).encode(), headers=headers)
