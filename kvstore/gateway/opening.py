"""Which backend keeps the store, by the settings. Each is imported only where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from config.errors import FlowError

if TYPE_CHECKING:
    from config.slices.kv import KVSettings
    from kvstore.gateway.backend import Admin, Backend
    from kvstore.gateway.sqlite import SqliteStore

T = TypeVar("T")

FILE = "kv/kv.sqlite"
SIGNING_KEY = "kv/signing-key.pem"


class StoreNotSet(FlowError):
    """A setting of the key-value store is missing."""


def open_backend(settings: KVSettings, share_dir: Path) -> Backend:
    """The backend, which its user still opens. Raises StoreNotSet, or KeyUnusable for the signing key."""
    match settings.kind:
        case "sqlite":
            return _sqlite(settings, share_dir)
        case "postgres":
            from kvstore.gateway.postgres import PostgresBackend

            return PostgresBackend(_needed(settings.dsn, "FLOW_KV_DSN", "FLOW_KV=postgres"))
        case "supabase":
            from kvstore.gateway.supabase import SupabaseBackend
            from kvstore.gateway.tokens import SigningKey, minter

            secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
            key = _needed(settings.supabase_key, "SUPABASE_ANON_KEY", "Supabase")
            return SupabaseBackend(
                _needed(settings.supabase_url, "SUPABASE_URL", "FLOW_KV=supabase"),
                key.get_secret_value(),
                minter(SigningKey.load(share_dir / SIGNING_KEY), secret),
            )


def open_admin(settings: KVSettings, share_dir: Path) -> Admin:
    """What Flow looks after the worklets with; it opens at its first call. Raises StoreNotSet."""
    match settings.kind:
        case "sqlite":
            return _sqlite(settings, share_dir)
        case "postgres":
            from kvstore.gateway.postgres import PostgresAdmin

            return PostgresAdmin(_needed(settings.admin_dsn or settings.dsn, "FLOW_KV_DSN", "FLOW_KV=postgres"))
        case "supabase":
            from kvstore.gateway.supabase import SupabaseAdmin

            key = _needed(settings.service_role_key, "SUPABASE_SERVICE_ROLE_KEY", "Supabase")
            url = _needed(settings.supabase_url, "SUPABASE_URL", "FLOW_KV=supabase")
            return SupabaseAdmin(url, key.get_secret_value())


def _sqlite(settings: KVSettings, share_dir: Path) -> SqliteStore:
    from kvstore.gateway.sqlite import SqliteStore

    return SqliteStore(share_dir / FILE, max_keys=settings.max_keys, max_bytes=settings.max_bytes)


def _needed(value: T | None, name: str, why: str) -> T:
    if value is None:
        raise StoreNotSet(f"{name} is not set, and {why} needs it.", suggestion=f"Set {name}, or FLOW_KV=sqlite.")
    return value
