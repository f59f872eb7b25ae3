"""A worklet's store as the command line sees it: opened beside a running Flow, with refusals as sentences."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from config.errors import FlowError
from kvstore.gateway.callers import Caller
from kvstore.gateway.functions import validated
from sessions.errors import SessionNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from config.settings import KVSettings, Settings
    from kvstore.gateway.backend import Backend
    from kvstore.gateway.errors import Refusal
    from sessions.types import Session


class StoreRefused(FlowError):
    """The key-value store refused that."""


class Shelf:
    """What one worklet keeps. Every method raises Refusal."""

    def __init__(self, backend: Backend, worklet_id: str) -> None:
        self.worklet_id = worklet_id
        self._backend, self._caller = backend, Caller.of_worklet(worklet_id)

    async def call(self, function: str, **arguments: Any) -> Any:
        """The function's answer; arguments as in the wire protocol."""
        return json.loads(await self._backend.call(self._caller, function, validated(function, arguments)))

    async def namespaces(self) -> list[str]:
        found: list[str] = await self.call("kv_list_namespaces")
        return found

    async def pages(
        self, namespace: str | None, prefix: str = "", *, values: bool, after: tuple[str, str] | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Entries with their namespace, in the order of (namespace, key), from `after` on; namespace None: of all."""
        for one in [namespace] if namespace is not None else await self.namespaces():
            if after is not None and one.encode() < after[0].encode():
                continue
            cursor = after[1] if after is not None and one == after[0] else None
            while True:
                page = await self.call(
                    "kv_list", p_namespace=one, p_prefix=prefix, p_cursor=cursor, p_limit=1000, p_values=values
                )
                if page["entries"]:
                    yield [{"namespace": one, **entry} for entry in page["entries"]]
                if (cursor := page["cursor"]) is None:
                    break


@asynccontextmanager
async def open_shelf(settings: Settings, given: str, *, make: bool = False) -> AsyncIterator[Shelf]:
    """`given`: a session's id, the first letters of it, or its thread's link. Raises FlowError, Refusal.

    `make`: a session that has no store yet gets one, as at the start of its container.
    """
    from kvstore.gateway.errors import KV_FORBIDDEN, Refusal
    from kvstore.gateway.opening import open_backend

    if not make:
        _check_there(settings)
    worklet_id, session = await _worklet_of(settings, given)
    if session is None:
        _check_there(settings)
    backend = open_backend(settings.kv, settings.share_dir)
    try:
        await backend.open()
        shelf = Shelf(backend, worklet_id)
        if make:
            await _make_store(settings, shelf, session)
        yield shelf
    except Refusal as refusal:
        if refusal.hint == KV_FORBIDDEN and session is None:
            raise SessionNotFound(
                f"No session has the id {worklet_id}, and that worklet has no store yet.",
                suggestion="`flow sessions list` and `flow kv worklets` show which there are.",
            ) from refusal
        raise
    finally:
        await asyncio.shield(backend.close())


async def check_takes(settings: Settings, given: str) -> None:
    """Whether an import would find a worklet, or could make its store. Raises FlowError, Refusal."""
    _, session = await _worklet_of(settings, given)
    if session is None:
        async with open_shelf(settings, given) as shelf:
            await shelf.call("kv_stats")


async def _make_store(settings: Settings, shelf: Shelf, session: Session | None) -> None:
    """Where there is none: registering needs rights that a login for reading and writing lacks."""
    from kvstore.gateway.errors import KV_FORBIDDEN, Refusal
    from kvstore.gateway.opening import open_admin
    from worklets.kvregistry import owner_of

    try:
        await shelf.call("kv_stats")
    except Refusal as refusal:
        if refusal.hint != KV_FORBIDDEN or session is None:
            raise
    else:
        return
    owner = owner_of(session.user_id)
    admin, kv = open_admin(settings.kv, settings.share_dir), settings.kv
    try:
        await admin.register(shelf.worklet_id, owner, session.name, max_keys=kv.max_keys, max_bytes=kv.max_bytes)
    finally:
        await asyncio.shield(admin.close())


async def worklets(settings: Settings) -> list[dict[str, str]]:
    """`{"id", "owner_id", "name"}` of each worklet that has a store."""
    from kvstore.gateway.opening import open_admin

    _check_there(settings)
    admin = open_admin(settings.kv, settings.share_dir)
    try:
        return await admin.worklets()
    finally:
        await asyncio.shield(admin.close())


def told(refusal: Refusal, settings: KVSettings) -> FlowError:
    """The refusal in words for whoever typed the command."""
    if refusal.hint == "KV_FORBIDDEN":
        return StoreRefused(
            "That worklet has no store yet.",
            suggestion="It gets one when its container starts; `flow kv worklets` has all.",
        )
    if refusal.code in ("PGRST202", "PGRST205", "42P01", "42883", "3F000"):
        return StoreRefused(
            "The database does not have the store's tables and functions.", suggestion="Run `flow db upgrade --kv`."
        )
    if refusal.code in ("PGRST301", "PGRST302", "PGRST303") and settings.kind == "supabase":
        return StoreRefused(
            "Supabase does not trust Flow's tokens.",
            suggestion="Register the public key that `flow kv jwks` prints, or set FLOW_KV_JWT_SECRET.",
        )
    return StoreRefused(re.sub(r"\bp_(?=[a-z])", "", refusal.message))  # as the wire calls arguments


def _check_there(settings: Settings) -> None:
    """Looking must not make a database. Raises FlowError."""
    path = settings.share_dir / "kv" / "kv.sqlite"
    if settings.kv.kind == "sqlite" and not path.exists():
        raise StoreRefused(
            f"There is no key-value store at {path}.",
            suggestion="Flow makes it when it first starts; FLOW_SHARE_DIR or FLOW_KV says where else it may be.",
        )


async def _worklet_of(settings: Settings, given: str) -> tuple[str, Session | None]:
    """Of a session, or of a store whose session is gone or was never Flow's: that has none. Raises SessionNotFound."""
    from bot.finding import find_session, looking
    from kvstore.gateway.errors import Refusal

    async with looking(settings) as store:
        try:
            session = await find_session(store, given)
            return str(uuid.UUID(session.id)), session
        except SessionNotFound as e:
            if (whole := _uuid(given)) is not None:
                return whole, None  # where it has no store, the backend says so
            none = e
    try:
        found = [one["id"] for one in await worklets(settings) if one["id"].startswith(given.lower())]
    except (FlowError, Refusal):  # whoever may not look at all worklets names one by its whole id
        raise none from None
    if len(found) != 1:
        raise none
    return found[0], None


def _uuid(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
