"""Which backend the settings lead to, and what is said where one of them is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.slices.kv import KVSettings
from kvstore.gateway.opening import FILE, StoreNotSet, open_admin, open_backend
from kvstore.gateway.sqlite import SqliteStore

SUPABASE = {"supabase_url": "https://abcd.supabase.co", "supabase_key": "publishable"}


@pytest.mark.parametrize(
    ("set_", "kind"),
    [
        ({}, "sqlite"),
        ({"dsn": "postgresql://u@h/d"}, "postgres"),
        ({"dsn": "postgresql://u@h/d", **SUPABASE}, "supabase"),
        ({"dsn": "postgresql://u@h/d", "backend": "sqlite"}, "sqlite"),
    ],
)
async def test_the_backend_follows_from_what_is_set(set_: dict[str, Any], kind: str, tmp_path: Path) -> None:
    backend = open_backend(KVSettings(**set_), tmp_path)
    assert backend.kind == kind
    await backend.close()


async def test_the_embedded_store_lies_in_the_share_directory_with_the_quotas_that_are_set(tmp_path: Path) -> None:
    admin = open_admin(KVSettings(max_keys=7, max_bytes=70), tmp_path)
    assert isinstance(admin, SqliteStore)
    worklet = "00000000-0000-4000-8000-000000000001"
    await admin.register(worklet, worklet, "", max_keys=None, max_bytes=None)
    assert (tmp_path / FILE).is_file()
    assert await admin.worklets() == [{"id": worklet, "owner_id": worklet, "name": ""}]
    await admin.close()


def test_supabases_secret_key_is_asked_for_only_where_worklets_are_looked_after(tmp_path: Path) -> None:
    """The settings see to the others."""
    with pytest.raises(StoreNotSet, match="SUPABASE_SERVICE_ROLE_KEY") as caught:
        open_admin(KVSettings(**SUPABASE), tmp_path)
    assert caught.value.suggestion == "Set SUPABASE_SERVICE_ROLE_KEY, or FLOW_KV=sqlite."
