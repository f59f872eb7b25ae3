"""The worklets' key-value store: where it lies, and what one worklet may keep in it."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import SecretStr, field_validator, model_validator

from config.slices.base import Bytes, Slice, setting

_HOST = r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]]*)(:\d*)?"  # and its port


def check_postgres(address: str) -> str:
    """The address of a PostgreSQL as it came. Raises ValueError, which says nothing of what is in it."""
    if not re.match(r"postgres(ql)?://", address):
        raise ValueError("it must begin with postgresql://")
    hosts = re.split("[/?#]", address.partition("://")[2])[0].rpartition("@")[2]
    if not all(re.fullmatch(_HOST, host) for host in hosts.split(",")):
        # Drivers take the part before for a port, and quote it.
        raise ValueError("its password has a character that ends it; write / as %2F, # as %23, ? as %3F, : as %3A")
    return address


class KVSettings(Slice):
    backend: Literal["auto", "sqlite", "postgres", "supabase"] = setting(
        "FLOW_KV", "auto", "Where worklets' key-value data lies: auto, sqlite, postgres or supabase."
    )
    dsn: str | None = setting(
        "FLOW_KV_DSN", None, "postgresql://… of the key-value store; its login may only change roles."
    )
    admin_dsn: str | None = setting(
        "FLOW_KV_ADMIN_DSN", None, "The same database as its tables' owner; unset: FLOW_KV_DSN."
    )
    supabase_url: str | None = setting(
        "SUPABASE_URL REACT_APP_SUPABASE_URL",
        None,
        "Supabase project that keeps the key-value store, e.g. https://abcd.supabase.co.",
    )
    supabase_key: SecretStr | None = setting(
        "SUPABASE_ANON_KEY REACT_APP_SUPABASE_ANON_KEY", None, "Its publishable (anon) key."
    )
    service_role_key: SecretStr | None = setting(
        "SUPABASE_SERVICE_ROLE_KEY", None, "Its secret key: registers worklets, cleans up."
    )
    jwt_secret: SecretStr | None = setting(
        "FLOW_KV_JWT_SECRET", None, "HS256 secret to sign worklets' tokens with, in place of ES256."
    )
    max_bytes: Bytes = setting("FLOW_KV_MAX_BYTES", 256 * 1024**2, "What one worklet may keep in the store, e.g. 256m.")
    max_keys: int = setting("FLOW_KV_MAX_KEYS", 1_000_000, "Keys that one worklet may have.", ge=1)
    rate: float = setting("FLOW_KV_RATE", 2000.0, "Operations a second that one worklet may do in the store.", gt=0)

    @property
    def kind(self) -> Literal["sqlite", "postgres", "supabase"]:
        """The backend; where it says auto, chosen by what is set."""
        if self.backend != "auto":
            return self.backend
        return "supabase" if self.supabase_url else "postgres" if self.dsn else "sqlite"

    @field_validator("supabase_url")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError("it must begin with https:// or http://")
        return value.rstrip("/") if value is not None else None

    @field_validator("dsn", "admin_dsn")
    @classmethod
    def _is_postgres(cls, value: str | None) -> str | None:
        return check_postgres(value) if value is not None else None

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.backend == "postgres" and not self.dsn:
            raise ValueError("FLOW_KV=postgres needs FLOW_KV_DSN")
        if self.backend == "supabase" and not self.supabase_url:
            raise ValueError("FLOW_KV=supabase needs SUPABASE_URL")
        if self.kind == "supabase" and not self.supabase_key:
            raise ValueError("SUPABASE_URL is set, but not SUPABASE_ANON_KEY; set it too, or FLOW_KV=sqlite")
        return self
