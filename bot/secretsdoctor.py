"""What `flow doctor` says of the secrets: whether they can be read, where their key is, what Vault lets Flow do."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding
from bot.secretstores import file_keys, file_store
from config.units import format_duration
from worklets.secretsfile import FILE

if TYPE_CHECKING:
    from config.settings import Settings


async def secrets(settings: Settings) -> Finding:
    """Raises FlowError."""
    own = settings.secrets
    if own.kind == "vault":
        return await _vault(settings)
    found = await _file(settings)
    if own.address is not None and own.login is not None:
        advice = found.advice or "Set FLOW_SECRETS=vault to keep them there, or unset VAULT_ADDR."
        return Finding("warn", f"{found.text}; Vault's settings are not used: FLOW_SECRETS is file", advice)
    return found


async def _file(settings: Settings) -> Finding:
    store = file_store(settings)
    count = len(await store.list())
    if not (settings.share_dir / FILE).exists():
        if error := await asyncio.to_thread(file_keys(settings).homeless):
            return Finding(
                "warn", "none yet, and none can be stored: their key must outlive this container", error.suggestion
            )
        return Finding("ok", "none yet; an encrypted file holds them (`flow secrets set`)")
    where = await store.where()
    return await asyncio.to_thread(_of_key, Path(where), settings) or Finding(
        "ok", f"{count} in an encrypted file; its key is in {where}"
    )


def _of_key(path: Path, settings: Settings) -> Finding | None:
    """None: the key is in no file, or in one that is as it should be."""
    if not path.is_absolute() or not path.is_file():
        return None
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("warn", f"others may read their key {path}", f"chmod 600 {path}")
    if path.resolve().is_relative_to(settings.share_dir.resolve()):
        advice = "Set FLOW_SECRETS_KEY_FILE to a file outside of it: a backup of one is a backup of both."
        return Finding("warn", f"their key lies in the share directory, {path}", advice)
    return None


async def _vault(settings: Settings) -> Finding:
    from worklets.secretsvault import VaultStore

    store = VaultStore(settings.secrets)
    try:
        token = await store.token()
        count = len(await store.list())
        lacking = await store.lacking()
    finally:
        await store.aclose()
    told = f"{count} in Vault at {settings.secrets.address}"
    if token["ttl"] and not token["renewable"] and settings.secrets.login == "token":
        left = format_duration(token["ttl"])
        advice = "Give Flow a renewable or periodic token, or an AppRole (VAULT_ROLE_ID)."
        return Finding("warn", f"{told}; its token ends in {left} and cannot be renewed", advice)
    if lacking:
        advice = "Give Flow the policy of docs/secrets.md, or use no template with vault."
        return Finding("warn", f"{told}; sessions cannot get tokens, Flow may not use {', '.join(lacking)}", advice)
    return Finding("ok", f"{told}; sessions can get tokens of their own")
