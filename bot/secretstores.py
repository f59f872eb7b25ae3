"""The store of secrets that the settings name: docs/secrets.md."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from config.settings import inherited
from worklets.secretsfile import FileStore
from worklets.secretskeys import Keys
from worklets.secretstokens import Accessors, SessionTokens

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.secrets import SecretStore


@asynccontextmanager
async def tokens_of(
    secrets: SecretStore, accessors: Accessors, *, serving: bool
) -> AsyncIterator[SessionTokens | None]:
    """What gives sessions tokens of their own, where `secrets` is Vault. `serving`: renewals run meanwhile."""
    if secrets.kind != "vault":
        yield None
        return
    from worklets.secretsvault import VaultStore

    assert isinstance(secrets, VaultStore)
    tokens = SessionTokens(secrets, accessors, lambda: datetime.now(UTC))
    if serving:
        secrets.start()
        tokens.start()
    try:
        yield tokens
    finally:
        await tokens.aclose()


def open_secrets(settings: Settings) -> SecretStore:
    """Asks nothing of it yet. Close it with `aclose`."""
    if settings.secrets.kind == "vault":
        from worklets.secretsvault import VaultStore

        return VaultStore(settings.secrets)
    return file_store(settings)


def file_store(settings: Settings) -> FileStore:
    """The encrypted file of this share directory."""
    return FileStore(settings.share_dir, file_keys(settings))


def file_keys(settings: Settings) -> Keys:
    """Where the key of that file is, or will be."""
    own = settings.secrets
    return Keys(own.keys, own.key_file, _key_directory())


def _key_directory() -> Path | None:
    """Outside of the share directory, so that a backup of that is not a backup of its key. None in a container."""
    environ = inherited()
    if "KUBERNETES_SERVICE_HOST" in environ:
        return None
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")):
        return None
    home = environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "flow"
