"""The store in a Supabase project: its REST API with the caller's own token, so that row level security decides.

supabase-py makes the requests, over one HTTP client for all worklets. A request carries its token itself: the client
object holds none, so no worklet can ever send with another's.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from kvstore.gateway import supabaseerrors as errors
from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal, no_token
from kvstore.gateway.supabasekeys import checked_publishable, checked_secret, no_service_role
from kvstore.gateway.tokens import Minter
from kvstore.gateway.turns import Turns

if TYPE_CHECKING:
    import httpx
    from supabase import AsyncClient

READ_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 30.0
_CONNECTIONS: Final = 32
_PIECE_BYTES: Final = 1 << 18
#: Of a deadlock or a conflict, after which nothing was written. Four times in all, within about a third of a second.
_PAUSES: Final = (0.01, 0.05, 0.2)
_MINTED_SECONDS: Final = 600.0
_MOST_MINTED: Final = 1024
#: A database may take a token whose time of issue is within the running second for one from the future.
_FRESH_SECONDS: Final = 2.0
_SWEPT_AT_ONCE: Final = 5000
_SWEEPS: Final = 200  # steps of one sweep


class _Connection:
    """Requests to one project with one API key, which `check` looks at before it is used."""

    def __init__(self, url: str, api_key: str, timeout: float, check: Callable[[str], str]) -> None:
        self._url, self._api_key, self._timeout, self._check = url.rstrip("/"), api_key, timeout, check
        self._http: httpx.AsyncClient | None = None
        self._client: AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> AsyncClient:
        async with self._opening:
            if self._client is None:
                api_key = self._check(self._api_key)
                # To import supabase-py takes a second, to read the certificates 20 ms.
                http = await asyncio.to_thread(_http_client, self._timeout)
                try:
                    self._client = await _supabase_client(self._url, api_key, http)
                except BaseException:
                    await http.aclose()
                    raise
                self._http = http
            return self._client

    async def close(self) -> None:
        async with self._opening:
            http, self._http, self._client = self._http, None, None
        if http is not None:
            await http.aclose()

    async def rpc(self, function: str, arguments: Mapping[str, Any], token: str | None) -> str:
        """The answer as JSON text, "" where there is none. `token` None: as whom the API key itself stands for."""
        from aiohttp import ClientError
        from httpx import Headers, TransportError

        client = self._client or await self.open()
        request: Any = client.rpc(function, dict(arguments)).request
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        try:
            # Not execute(): it would parse up to 4 MiB of JSON, only for us to write it out again.
            response: httpx.Response = await request.send(Headers())
        except (TransportError, ClientError) as e:  # the transport leaves some of aiohttp's errors as they are
            raise errors.unreachable(self._url, e) from e
        if response.status_code == 204:
            return ""
        if response.status_code == 200 and errors.is_json(response):
            return response.text
        raise errors.refusal(self._url, response)


def _http_client(timeout: float) -> httpx.AsyncClient:
    """With aiohttp below: httpx's own transport loses its pace with many requests at once (encode/httpx#3215)."""
    import httpx
    import supabase  # noqa: F401 - here, in a thread, because it is slow
    from httpx_aiohttp import HttpxAiohttpClient

    class Client(HttpxAiohttpClient):
        def build_request(self, *where: Any, content: Any = None, headers: Any = None, **more: Any) -> httpx.Request:
            """A large body goes out in pieces: whole, it would hold up the event loop, of which aiohttp warns."""
            if isinstance(content, bytes) and len(content) > _PIECE_BYTES:
                headers = httpx.Headers(headers)
                headers["Content-Length"] = str(len(content))
                content = _pieces(content)
            return super().build_request(*where, content=content, headers=headers, **more)

    return Client(
        timeout=httpx.Timeout(timeout, connect=timeout / 2),
        limits=httpx.Limits(
            max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_IDLE_SECONDS
        ),
    )


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]


async def _supabase_client(url: str, api_key: str, http: httpx.AsyncClient) -> AsyncClient:
    """Raises Refusal for an address that is none."""
    from supabase import AsyncClientOptions, AsyncSupabaseException, acreate_client

    defaults = AsyncClientOptions()
    options = AsyncClientOptions(
        # With a header of our own it looks for no session. A request of a worklet replaces it.
        headers={**defaults.headers, "Authorization": f"Bearer {api_key}"},
        auto_refresh_token=False,
        persist_session=False,
        httpx_client=http,
        postgrest_client_retry=False,
    )
    try:
        return await acreate_client(url, api_key, options)
    except (AsyncSupabaseException, ValueError) as e:
        raise errors.no_address() from e


class SupabaseBackend:
    """A Backend. `api_key` is the project's publishable (anon) key; `minter` signs for callers who bring no token.

    A request that is not answered within `timeout` seconds is refused with 504; half of them are for the connection.
    """

    kind = "supabase"

    def __init__(
        self,
        url: str,
        api_key: str,
        minter: Minter,
        *,
        timeout: float = READ_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = _Connection(url, api_key, timeout, checked_publishable)
        self._tokens = _Minted(minter, clock)
        self._clock = clock
        self._turns = Turns(writes=_CONNECTIONS // 8, reads=_CONNECTIONS // 4, timeout=timeout)

    async def open(self) -> None:
        await self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    async def check(self) -> None:
        """Asks as a worklet that is not there. Only a project that trusts our tokens and has the functions says so."""
        nobody = Caller.of_worklet(str(uuid.uuid4()))
        try:
            await self.call(nobody, "kv_has", {"p_namespace": "default", "p_key": "check"})
        except Refusal as refused:
            if refused.code != "42501":
                raise

    async def call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
        token, issued_at = self._token(caller)
        sent = {name: value for name, value in arguments.items() if name != "p_wait"}

        async def once() -> str:
            return await self._connection.rpc(function, sent, token)

        try:
            async with self._turns.turn(caller, function):
                return await _repeated(once)
        except Refusal as refused:
            if refused.code != "PGRST303" or not 0 <= self._clock() - issued_at < _FRESH_SECONDS:
                raise
        # Its clock is behind ours, or it has no fractions of seconds.
        await asyncio.sleep(1.05)
        return await _repeated(once)

    def _token(self, caller: Caller) -> tuple[str, float]:
        if caller.token is not None:
            return caller.token, caller.issued_at or 0.0
        return self._tokens.of(caller)


class _Minted:
    """Tokens for callers who bring none, kept while they are good."""

    def __init__(self, minter: Minter, clock: Callable[[], float]) -> None:
        self._minter, self._clock = minter, clock
        self._kept: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def of(self, caller: Caller) -> tuple[str, float]:
        """The token, and when it was issued. Raises Refusal for a caller who is nobody."""
        who = caller.worklet_id or caller.owner_id
        if who is None:
            raise no_token()
        now, name = self._clock(), (caller.role, who)
        kept = self._kept.get(name)
        if kept is None or not 0 <= now - kept[1] < _MINTED_SECONDS:
            mint = self._minter.mint_worklet if caller.role == "worklet" else self._minter.mint_person
            kept = self._kept[name] = (mint(who, now), now)
        self._kept.move_to_end(name)
        if len(self._kept) > _MOST_MINTED:
            self._kept.popitem(last=False)
        return kept


async def _repeated(once: Callable[[], Awaitable[str]]) -> str:
    """Again after a deadlock or a conflict, which wrote nothing. All else is for the client to try again."""
    for pause in _PAUSES:
        try:
            return await once()
        except Refusal as refused:
            if refused.code not in errors.CONFLICTS:
                raise
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
    return await once()


class SupabaseAdmin:
    """An Admin, through functions that only the service role may call.

    `service_role_key` is the project's secret key (`sb_secret_…`, or the older JWT). It passes every policy: it belongs
    in Flow's settings and nowhere else.
    """

    def __init__(self, url: str, service_role_key: str, *, timeout: float = 3 * READ_SECONDS) -> None:
        self._connection = _Connection(url, service_role_key, timeout, checked_secret)

    async def register(
        self, worklet_id: str, owner_id: str, name: str, *, max_keys: int | None, max_bytes: int | None
    ) -> None:
        await self._call(
            "kv_admin_register", p_worklet_id=worklet_id, p_owner_id=owner_id, p_name=name, p_max_keys=max_keys,
            p_max_bytes=max_bytes,
        )  # fmt: skip

    async def revoke(self, worklet_id: str, now: float) -> None:
        moment = datetime.fromtimestamp(now, UTC).isoformat()
        await self._call("kv_admin_revoke", p_worklet_id=worklet_id, p_from=moment)

    async def remove(self, worklet_id: str) -> None:
        await self._call("kv_admin_remove", p_worklet_id=worklet_id)

    async def sweep(self) -> int:
        """In steps, each a transaction; the rest, where entries expire all the time, is for the next call."""
        total = 0
        for _ in range(_SWEEPS):
            number = int(json.loads(await self._call("kv_admin_sweep", p_limit=_SWEPT_AT_ONCE)))
            total += number
            if not number:
                break
        return total

    async def worklets(self) -> list[dict[str, str]]:
        return sorted(json.loads(await self._call("kv_admin_worklets")), key=lambda worklet: str(worklet["id"]))

    async def close(self) -> None:
        await self._connection.close()

    async def _call(self, function: str, **arguments: Any) -> str:
        async def once() -> str:
            return await self._connection.rpc(function, arguments, None)

        try:
            return await _repeated(once)
        except Refusal as refused:
            if refused.status != 401:
                raise
            raise no_service_role() from refused
