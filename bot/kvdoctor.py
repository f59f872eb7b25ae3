"""What `flow doctor` says of the key-value store: the database, its schema, its trust in our tokens, the key."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding
from bot.kvstores import told

if TYPE_CHECKING:
    from config.settings import KVSettings, Settings
    from kvstore.gateway.backend import Backend

_NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "supabase": "Supabase"}
_SECONDS = 10.0


async def store(settings: Settings) -> Finding:
    """Whether worklets' requests would be answered. Raises FlowError."""
    from kvstore.gateway.errors import Refusal
    from kvstore.gateway.opening import FILE, open_backend

    name = _NAMES[settings.kv.kind]
    if settings.kv.kind == "sqlite" and not (settings.share_dir / FILE).exists():
        return Finding("ok", f"{name}, made at the first start")
    backend = open_backend(settings.kv, settings.share_dir)
    try:
        async with asyncio.timeout(_SECONDS):
            await backend.open()
            await backend.check()
            await _knock(backend)
            powers = await _powers(backend)
    except Refusal as refusal:
        error = told(refusal, settings.kv)
        return Finding("fail", f"{name}: {error}", error.suggestion or "Check the FLOW_KV… settings and the database.")
    except TimeoutError:
        return Finding("fail", f"{name} does not answer", "Check the FLOW_KV… settings and the network.")
    finally:
        await backend.close()
    if powers and settings.kv.admin_dsn is not None:
        advice = "Set FLOW_KV_DSN to a login that may only change roles, like authenticator."
        return Finding("warn", f"{name} answers; of FLOW_KV_DSN, {powers}", advice)
    return _of_settings(settings.kv, name)


async def key(settings: Settings) -> Finding:
    """Raises FlowError when the file is damaged or cannot be read."""
    from kvstore.gateway.opening import SIGNING_KEY

    path = settings.share_dir / SIGNING_KEY
    if not path.exists():
        return Finding("ok", "made at the first start")
    from kvstore.gateway.tokens import SharedSecret, SigningKey

    own = await asyncio.to_thread(SigningKey.load, path)
    if path.stat().st_mode & 0o077:
        return Finding("warn", f"others may read {path}", f"chmod 600 {path}")
    if settings.kv.jwt_secret:
        SharedSecret(settings.kv.jwt_secret.get_secret_value())
        return Finding("ok", "tokens are signed with FLOW_KV_JWT_SECRET (HS256)")
    return Finding("ok", f"ES256, {own.kid}")


async def _knock(backend: Backend) -> None:
    """Asks as a worklet that there is not: the right answer is that it may not. Raises other Refusals."""
    from kvstore.gateway.callers import Caller
    from kvstore.gateway.errors import KV_FORBIDDEN, Refusal
    from kvstore.gateway.functions import validated

    try:
        await backend.call(Caller.of_worklet(str(uuid.uuid4())), "kv_stats", validated("kv_stats", {}))
    except Refusal as refusal:
        if refusal.hint != KV_FORBIDDEN:
            raise


async def _powers(backend: Backend) -> str:
    """Of PostgreSQL's login: what it may that the gateway does not need. Raises Refusal."""
    if backend.kind != "postgres":  # asyncpg is loaded only where it is used
        return ""
    from kvstore.gateway.postgres import PostgresBackend

    assert isinstance(backend, PostgresBackend)
    return await backend.powers()


def _of_settings(settings: KVSettings, name: str) -> Finding:
    if settings.kind == "supabase" and settings.service_role_key is None:
        advice = "Set SUPABASE_SERVICE_ROLE_KEY; without it every worklet has to be registered by hand."
        return Finding("warn", f"{name} answers; Flow may not register worklets", advice)
    if settings.kind == "postgres" and settings.admin_dsn is None:
        advice = "Set FLOW_KV_ADMIN_DSN to the tables' owner, and FLOW_KV_DSN to a login that may only change roles."
        return Finding("warn", f"{name} answers; one login does everything", advice)
    return Finding("ok", f"{name}, answers and knows our tokens")
