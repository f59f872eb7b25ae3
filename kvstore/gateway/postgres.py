"""The store in PostgreSQL: its functions do the work, row level security does the isolation.

One round trip a call: a statement is a transaction, in which `private.kv_assume` first takes on the caller's role and
claims (`set local`), then the function runs as the caller. PostgreSQL checks the right to call a function when the
statement begins, so the login has it as well; every table is looked at as the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import not_begun, unavailable
from kvstore.gateway.functions import FUNCTIONS, Function
from kvstore.gateway.postgrescheck import check_revision, check_walls, powers
from kvstore.gateway.postgreserrors import REPEATABLE, refusal, wrong_password
from kvstore.gateway.turns import Turns

_TYPES: Final = {
    "p_keys": "text[]",
    "p_ttl": "float8",
    "p_if_version": "bigint",
    "p_only_if_absent": "boolean",
    "p_limit": "integer",
    "p_values": "boolean",
    # As text: decimal digits need no Decimal on the way.
    "p_delta": "text::numeric",
    "p_worklet_id": "uuid",
}
_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
_TRIES: Final = 6
_REMOVE_SECONDS: Final = 600.0
_SWEEPS: Final = 200  # steps of one sweep
#: For the server to end a call that was given up.
_CANCEL_SECONDS: Final = 1.0


def _names(function: Function) -> list[str]:
    """Of the arguments that are sent: the gateway, not the database, waits for a change."""
    return [a.name for a in function.arguments if a.name != "p_wait"]


def _statement(function: Function) -> str:
    arguments = ", ".join(
        f"{name} => ${number}::{_TYPES.get(name, 'text')}" for number, name in enumerate(_names(function), start=3)
    )
    return f"select case when private.kv_assume($1, $2) then public.{function.name}({arguments})::text end"


#: Entries that are deleted in one transaction: well below a second.
_PORTION: Final = 5000
_CLEAR: Final = (
    "select case when private.kv_assume($1, $2)"
    " then private.kv_clear_part($3::text, $4::bigint, $5::integer, $6::uuid)::text end"
)
_CALLS: Final = {f.name: (_statement(f), _names(f)) for f in FUNCTIONS.values()}


async def _no_reset(_: asyncpg.Connection) -> None:
    """Each statement leaves the session as it was: a reset would be a round trip for nothing."""


async def _give_back(pool: asyncpg.Pool, connection: asyncpg.Connection) -> None:
    """One whose call was given up asks the server to cancel it, and is cut off where that is not answered.

    One that a crashed server cut off has left the pool by itself, and giving it back fails. What was answered before
    that stays answered.
    """
    with contextlib.suppress(*_FAILURES):
        await pool.release(connection, timeout=_CANCEL_SECONDS)


def _limits(timeout: float) -> dict[str, str]:
    """The server gives up a little earlier than we do: what was refused is not carried out later."""
    milliseconds = str(max(1, int(timeout * 900)))
    return {"statement_timeout": milliseconds, "lock_timeout": milliseconds}


class _Pool:
    """Connections that are made when they are needed. Every failure leaves it as Refusal."""

    def __init__(self, dsn: str, size: int, timeout: float) -> None:
        self._dsn, self._size, self._timeout = dsn, size, timeout
        self._pool: asyncpg.Pool | None = None
        self._checked = False

    @asynccontextmanager
    async def connection(self, *, walls: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """`walls`: whether the first use looks for policies too. Raises Refusal."""
        try:
            pool = await self._opened()
            connection = await pool.acquire(timeout=self._timeout)
        except asyncpg.InvalidPasswordError:
            raise not_begun(wrong_password(self._dsn)) from None
        except (*_FAILURES, ValueError) as error:
            raise not_begun(refusal(error)) from None
        try:
            if not self._checked:
                await check_revision(connection)
                if walls:
                    await check_walls(connection)
                self._checked = True
            yield connection
        except _FAILURES as error:
            raise refusal(error) from None
        finally:
            await asyncio.shield(_give_back(pool, connection))

    async def _opened(self) -> asyncpg.Pool:
        if self._pool is None:
            # Without connections at first: made within one turn of the event loop, so no second caller makes another.
            self._pool = asyncpg.create_pool(
                self._dsn, min_size=0, max_size=self._size, reset=_no_reset, timeout=self._timeout,
                command_timeout=self._timeout,
                server_settings={"application_name": "flow-kv", **_limits(self._timeout)},
            )  # fmt: skip
        return await self._pool

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), self._timeout)
        except _FAILURES:
            pool.terminate()


class PostgresBackend:
    """`dsn`: of a login that may act as `worklet` and `authenticated` (Supabase's `authenticator`, say).

    `size` connections at most; a call that takes more than `timeout` seconds is refused with 503.
    """

    kind = "postgres"

    def __init__(self, dsn: str, *, size: int = 10, timeout: float = 10.0) -> None:
        self._pool = _Pool(dsn, size, timeout)
        self._turns = Turns(writes=max(1, size // 5), reads=max(1, size // 3), timeout=timeout)

    async def open(self) -> None:
        """Raises Refusal when the database is away, or lacks the migration or a policy."""
        await self.check()

    async def call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
        """See `Backend.call`. One transaction; one that PostgreSQL gave up for another's sake is run again."""
        async with self._turns.turn(caller, function):
            return await self._call(caller, function, arguments)

    async def _call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
        if function == "kv_clear":
            return await self._clear(caller, arguments)
        statement, names = _CALLS[function]
        return await self._run(caller, statement, [arguments[name] for name in names])

    async def _clear(self, caller: Caller, arguments: Mapping[str, Any]) -> str:
        """In portions, each a transaction: what was there at the beginning goes, what is written meanwhile stays."""
        deleted, bound = 0, None
        while True:
            values = [arguments["p_namespace"], bound, _PORTION, arguments["p_worklet_id"]]
            part = json.loads(await self._run(caller, _CLEAR, values))
            deleted, bound = deleted + part["deleted"], part["bound"]
            if not part["more"]:
                return str(deleted)

    async def _run(self, caller: Caller, statement: str, values: list[Any]) -> str:
        claims = json.dumps(caller.claims())
        for tries_left in reversed(range(_TRIES)):
            async with self._pool.connection(walls=True) as connection:
                try:
                    answer = await connection.fetchval(statement, caller.role, claims, *values)
                except asyncpg.PostgresError as error:
                    if error.sqlstate not in REPEATABLE or not tries_left:
                        raise
                else:
                    return "null" if answer is None else str(answer)
            await asyncio.sleep(random.uniform(0, 0.01) * 2 ** (_TRIES - tries_left))
        raise AssertionError("the last try returns or raises")

    async def powers(self) -> str:
        """What the login could do past the walls, as in "its role x is a superuser"; or nothing. Raises Refusal."""
        async with self._pool.connection() as connection:
            return await powers(connection)

    async def check(self) -> None:
        """Raises Refusal when the database does not answer."""
        async with self._pool.connection(walls=True) as connection:
            await connection.fetchval("select 1")

    async def close(self) -> None:
        await self._pool.close()


class PostgresAdmin:
    """`dsn`: of the owner of the store's tables, the login that applied the migration."""

    def __init__(self, dsn: str, *, timeout: float = 30.0) -> None:
        self._pool = _Pool(dsn, 2, timeout)

    async def register(
        self, worklet_id: str, owner_id: str, name: str, *, max_keys: int | None, max_bytes: int | None
    ) -> None:
        await self._run(
            "select public.kv_admin_register($1, $2, $3, $4, $5)", worklet_id, owner_id, name, max_keys, max_bytes
        )

    async def revoke(self, worklet_id: str, now: float) -> None:
        await self._run("select public.kv_admin_revoke($1, to_timestamp($2))", worklet_id, now)

    async def remove(self, worklet_id: str) -> None:
        """May take minutes for a large store."""
        milliseconds = int(_REMOVE_SECONDS * 1000)
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(f"set local statement_timeout = {milliseconds}")
            await _asked(connection, "select public.kv_admin_remove($1)", worklet_id, timeout=_REMOVE_SECONDS + 5)

    async def sweep(self) -> int:
        """In steps, so that no writer waits long; the rest, where entries expire all the time, is for the next call."""
        total = 0
        for _ in range(_SWEEPS):
            swept: int = await self._run("select private.kv_sweep($1)", _PORTION)
            total += swept
            if not swept:
                break
        return total

    async def worklets(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(await self._run("select public.kv_admin_worklets()::text"))
        return sorted(found, key=lambda worklet: worklet["id"])

    async def close(self) -> None:
        await self._pool.close()

    async def _run(self, statement: str, *values: Any) -> Any:
        async with self._pool.connection() as connection:
            return await _asked(connection, statement, *values)


async def _asked(connection: asyncpg.Connection, statement: str, *values: Any, timeout: float | None = None) -> Any:
    try:
        return await connection.fetchval(statement, *values, timeout=timeout)
    except asyncpg.InsufficientPrivilegeError:
        message = "This login does not own the key-value store: set FLOW_KV_ADMIN_DSN to the owner's."
        raise unavailable(message) from None
