"""The way to the key-value store: requests under /rest/v1/ at worklets' doors, answered by one gateway.

The backend is opened at the first request, with what the bot said in its hello: neither the key with which Flow
administers the store nor its owner's login is among that. Flow's HTTP server has such a door too, for everybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from config.errors import FlowError
from worklets.kvtokens import TokenFiles

if TYPE_CHECKING:
    from aiohttp import web

    from config.slices.kv import KVSettings
    from kvstore.gateway.app import KVGateway
    from kvstore.gateway.backend import Backend
    from kvstore.gateway.memory import Memory, Room
    from kvstore.gateway.tokens import Minter

#: What a gateway's process is told of the settings.
_TOLD = ("backend", "dsn", "supabase_url", "supabase_key", "jwt_secret", "max_bytes", "max_keys", "rate")
_AGAIN_SECONDS = 1.0  # after the backend could not be opened
_LARGE = 65_536  # bytes of a body
_SEND_SECONDS = 30.0
_MIB = 1_048_576
_BODY = 16 * _MIB  # the most that is read of one
_BODIES, _ANSWERS = 256 * _MIB, 512 * _MIB  # all that one process holds
_ANSWERS_OF_ONE = 128 * _MIB  # all that one worklet has asked for and not read

log = structlog.get_logger(__name__)


def told(settings: KVSettings) -> dict[str, Any]:
    """The settings as they go to a gateway's process, over its control socket only: secrets are in it."""
    values = {name: getattr(settings, name) for name in _TOLD}
    return {n: v.get_secret_value() if hasattr(v, "get_secret_value") else v for n, v in values.items()}


class Places:
    """How many requests of one worklet, or of all people, may fill the memory of the process at the same time."""

    def __init__(self, times: int = 1) -> None:
        from kvstore.gateway.memory import Memory

        self.bodies = asyncio.Semaphore(4 * times)  # of 16 MiB at most
        self.answers = Memory(_ANSWERS_OF_ONE * times)


@dataclass(slots=True)
class _Opened:
    """A backend in use; one that another has followed is closed when its last request ends."""

    backend: Backend
    gateway: KVGateway
    running: int = 0
    retired: bool = False


class StoreDoor:
    """One per process. `configure` says where the store is; until then every request is answered 503."""

    def __init__(self, share_dir: Path) -> None:
        self.running = 0  # requests on their way
        self.last_request = time.monotonic()  # when the last one ended
        self.tokens = TokenFiles(self._mint)
        self._share_dir = share_dir
        self._told: Mapping[str, Any] | None = None
        self._minter: tuple[Mapping[str, Any] | None, Minter] | None = None  # and of which settings it is
        self._opened: _Opened | None = None
        self._failed: tuple[float, str] | None = None  # when, and why
        self._memory: tuple[Memory, Memory] | None = None  # for bodies and for answers
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    def configure(self, told: Mapping[str, Any] | None) -> None:
        """Where requests go from now on; those on their way end where they began. Token files follow."""
        if told == self._told:
            return
        first = self._told is None
        self._told, self._failed = told, None
        opened, self._opened = self._opened, None
        if not first:
            log.info("the key-value store's settings have changed")
            self._in_background(self.tokens.renew())
        if opened is not None:
            opened.retired = True
            self._in_background(self._retire(opened))

    async def answer(self, request: web.BaseRequest, worklet_id: str | None, places: Places) -> web.StreamResponse:
        """`worklet_id`: the one whose door it is."""
        if worklet_id is None:
            return _unavailable("This worklet was started before there was a key-value store; start it anew.")
        return await self._counted(request, worklet_id, places)

    async def _counted(self, request: web.BaseRequest, only: str | None, places: Places) -> web.StreamResponse:
        from kvstore.gateway.memory import Memory, Room

        if self._memory is None:
            self._memory = (Memory(_BODIES), Memory(_ANSWERS))
        bodies, answers = self._memory
        length = request.content_length
        answer = Room(places.answers, answers)
        self.running += 1
        try:
            if not request.body_exists or (length is not None and length <= _LARGE):
                return await _sent(request, await self._serve(request, only, answer))
            body = Room(bodies)
            async with places.bodies:
                try:
                    await body.take(min(length or _BODY, _BODY))
                    response = await self._serve(request, only, answer)
                finally:
                    body.keep(0)
            return await _sent(request, response)
        finally:
            answer.keep(0)
            self.running -= 1
            self.last_request = time.monotonic()

    def routes(self) -> list[web.RouteDef]:
        """For an `aiohttp.web.Application`: whoever has a token is let in, not one worklet alone."""
        from aiohttp import web

        places = Places(4)

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._counted(request, None, places)

        return [web.route("*", "/rest/v1/rpc/{function}", handle)]

    async def check(self) -> dict[str, Any]:
        """{"kind"} of the backend, which answers. Raises FlowError."""
        from kvstore.gateway.errors import Refusal

        opened = await self._open()
        try:
            await opened.backend.check()
        except Refusal as error:
            raise FlowError(error.message) from error
        return {"kind": opened.backend.kind}

    async def close(self) -> None:
        """Those who wait for changes get their answers, and token files are left to whoever opens the doors next."""
        await self.tokens.aclose()
        if self._opened is not None:
            await self._opened.gateway.close()

    async def aclose(self) -> None:
        """The token files stay for whoever opens the doors next."""
        await self.tokens.aclose()
        opened, self._opened = self._opened, None
        if opened is not None:
            await self._close(opened)
        await asyncio.gather(*self._closing)

    async def _serve(self, request: web.BaseRequest, only: str | None, room: Room) -> web.StreamResponse:
        try:
            opened = self._opened or await self._open()
        except FlowError as error:
            return _unavailable(error.sentence())
        opened.running += 1
        try:
            return await opened.gateway.handle(request, only, room)
        finally:
            opened.running -= 1
            if opened.retired:
                self._in_background(self._retire(opened))

    async def _open(self) -> _Opened:
        """Raises FlowError. A backend that could not be opened is left alone for a moment."""
        if self._opened is not None:
            return self._opened
        async with self._opening:
            if self._opened is not None:
                return self._opened
            if self._failed is not None and time.monotonic() - self._failed[0] < _AGAIN_SECONDS:
                raise FlowError(self._failed[1])
            told = self._told
            try:
                opened = await self._made()
            except Exception as error:
                self._failed = (time.monotonic(), _why(error))
                log.warning("the key-value store cannot be opened", error=self._failed[1])
                raise FlowError(self._failed[1]) from error
            if told != self._told:  # it was told something else meanwhile
                await self._close(opened)
            else:
                self._opened = opened
        return await self._open() if self._opened is None else self._opened

    async def _made(self) -> _Opened:
        # In a thread: to load what a backend needs takes a fifth of a second, and the model's answers go through here.
        opened = await asyncio.to_thread(self._load)
        try:
            await opened.backend.open()
        except BaseException:
            await opened.backend.close()
            raise
        log.info("the key-value store is open", kind=opened.backend.kind)
        return opened

    def _load(self) -> _Opened:
        from kvstore.gateway.app import KVGateway
        from kvstore.gateway.opening import SIGNING_KEY, open_backend
        from kvstore.gateway.tokens import SigningKey, Verifier

        settings = self._settings(self._told)
        secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        verifier = Verifier(SigningKey.load(self._share_dir / SIGNING_KEY), secret)
        backend = open_backend(settings, self._share_dir)
        return _Opened(backend, KVGateway(backend, verifier, rate=settings.rate))

    @staticmethod
    def _settings(told: Mapping[str, Any] | None) -> KVSettings:
        """Raises FlowError when nobody has told them yet."""
        from config.slices.kv import KVSettings

        if told is None:
            raise FlowError("Flow has not said yet where the key-value store is.", suggestion="Try again in a moment.")
        return KVSettings.model_validate(dict(told))

    def _mint(self, worklet_id: str) -> str:
        """In a thread, while `configure` may say something else. Raises FlowError."""
        told, made = self._told, self._minter
        if made is None or made[0] is not told:
            from kvstore.gateway.opening import SIGNING_KEY
            from kvstore.gateway.tokens import SigningKey, minter

            secret = self._settings(told).jwt_secret
            key = SigningKey.load(self._share_dir / SIGNING_KEY)
            self._minter = made = (told, minter(key, secret.get_secret_value() if secret else None))
        return made[1].mint_worklet(worklet_id)

    async def _retire(self, opened: _Opened) -> None:
        await opened.gateway.close()  # who waits for changes looks again, at the new one
        if opened.running == 0:
            await opened.backend.close()

    async def _close(self, opened: _Opened) -> None:
        await opened.gateway.close()
        await opened.backend.close()

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _why(error: Exception) -> str:
    """Of others' errors the kind only: they may quote what they were given."""
    from kvstore.gateway.errors import Refusal

    if isinstance(error, FlowError):
        return error.sentence()
    kind = error.message if isinstance(error, Refusal) else type(error).__name__
    return f"The key-value store cannot be opened: {kind}"


async def _sent(
    request: web.BaseRequest, response: web.StreamResponse, seconds: float = _SEND_SECONDS
) -> web.StreamResponse:
    """A long answer goes out here, as fast as it is read: until then it is in memory, and keeps its room.

    It may take `seconds`, and two more for each mebibyte: then the connection is cut off.
    """
    from aiohttp import web

    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or len(body) <= _LARGE:
        return response
    stream = web.StreamResponse(status=response.status, headers=response.headers)
    stream.content_length = len(body)
    try:
        async with asyncio.timeout(seconds + 2 * len(body) / _MIB):
            await stream.prepare(request)
            for start in range(0, len(body), _LARGE):
                await stream.write(body[start : start + _LARGE])
            await stream.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return stream


def _unavailable(message: str) -> web.Response:
    """Nothing of the request was begun, so clients may repeat all of them."""
    from aiohttp import web

    from kvstore.gateway.errors import not_begun, unavailable

    return web.json_response(not_begun(unavailable(message)).body(), status=503)
