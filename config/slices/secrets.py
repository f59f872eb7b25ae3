"""Where Flow keeps the secrets that it uses for its people: an encrypted file, or Vault (OpenBao)."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator, model_validator

from config.slices.base import Names, Seconds, Slice, setting

_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class SecretSettings(Slice):
    kind: Literal["file", "vault"] = setting(
        "FLOW_SECRETS", "file", "Where secrets lie: file (encrypted, in the share dir) or vault."
    )
    key: SecretStr | None = setting(
        "FLOW_SECRETS_KEY", None, "Key of the file, from `flow secrets key`; after a comma older ones, to read with."
    )
    key_file: Path | None = setting(
        "FLOW_SECRETS_KEY_FILE", None, "File with that key; unset: the OS keyring, or a file in ~/.config/flow."
    )
    cache: Seconds = setting(
        "FLOW_SECRETS_CACHE",
        3600.0,
        "How old a secret may be that is used while Vault is away; 1s: as good as none.",
    )
    address: str | None = setting("VAULT_ADDR", None, "Vault or OpenBao, e.g. https://vault.example.org:8200.")
    token: SecretStr | None = setting("VAULT_TOKEN", None, "Flow's own token there; or one of the next pairs.")
    role_id: str | None = setting("VAULT_ROLE_ID", None, "AppRole to log in with.")
    secret_id: SecretStr | None = setting("VAULT_SECRET_ID", None, "Its secret id.")
    kubernetes_role: str | None = setting("VAULT_K8S_ROLE", None, "Kubernetes role to log in with.")
    kubernetes_token_file: Path = setting(
        "VAULT_K8S_TOKEN_FILE", _ACCOUNT_TOKEN, "The service account's token, read at each login."
    )
    auth_mount: str | None = setting(
        "VAULT_AUTH_MOUNT", None, "Where that way to log in is mounted; unset: approle or kubernetes."
    )
    namespace: str | None = setting("VAULT_NAMESPACE", None, "Namespace, where the server has them.")
    ca_cert: Path | None = setting("VAULT_CACERT", None, "PEM file of the authority that signed its certificate.")
    client_cert: Path | None = setting("VAULT_CLIENT_CERT", None, "PEM file of Flow's own, where it asks for one.")
    client_key: Path | None = setting("VAULT_CLIENT_KEY", None, "PEM file of its key.")
    skip_verify: bool = setting("VAULT_SKIP_VERIFY", False, "Refused unless FLOW_VAULT_INSECURE is true too.")
    insecure: bool = setting(
        "FLOW_VAULT_INSECURE", False, "Let VAULT_ADDR be http:// beyond this machine, and VAULT_SKIP_VERIFY true."
    )
    mount: str = setting("FLOW_VAULT_MOUNT", "secret", "Where the KV engine (version 2) is mounted.")
    prefix: str = setting("FLOW_VAULT_PREFIX", "flow", "Path below it at which Flow's own secrets lie.")
    timeout: Seconds = setting("FLOW_VAULT_TIMEOUT", 5.0, "Time that one request to Vault may take.", ge=0.1, le=60)
    session_ttl: Seconds = setting(
        "FLOW_VAULT_SESSION_TTL", 3600.0, "How long a session's token lasts when nobody renews it.", ge=60
    )

    token_role: str = setting(
        "FLOW_VAULT_TOKEN_ROLE", "flow-worklet", "Token role by which sessions get theirs: docs/secrets.md."
    )
    shared: Names = setting(
        "FLOW_VAULT_SHARED",
        (),
        "Paths below the mount that templates may let their sessions read, with all below them.",
    )

    @property
    def login(self) -> Literal["token", "approle", "kubernetes"] | None:
        """How Flow shows who it is; None: no way is set."""
        if self.token is not None:
            return "token"
        if self.role_id is not None:
            return "approle"
        return "kubernetes" if self.kubernetes_role is not None else None

    @property
    def keys(self) -> list[str]:
        """Those of FLOW_SECRETS_KEY, the newest first."""
        given = self.key.get_secret_value() if self.key is not None else ""
        return [one.strip() for one in given.split(",") if one.strip()]

    @field_validator("address")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/@]+(/|$)", value):
            raise ValueError("it must begin with https:// or http:// and a host, without a name or password")
        return value.rstrip("/") if value is not None else None

    @field_validator("mount", "prefix", "auth_mount", "token_role")
    @classmethod
    def _is_path(cls, value: str | None) -> str | None:
        value = value.strip("/") if value is not None else None
        if value is not None and not _PATH.fullmatch(value):
            raise ValueError("it is no path of letters, digits and . _ - with / between parts")
        return value

    @model_validator(mode="after")
    def _keeps_its_own(self) -> Self:
        for path in self.shared:
            if not _PATH.fullmatch(path):
                raise ValueError(
                    f'"{path}" in FLOW_VAULT_SHARED is no path of letters, digits and . _ - with / between'
                )
            if _overlap(path, self.prefix) or _overlap(path, "worklets"):
                raise ValueError(f"{path} in FLOW_VAULT_SHARED would give away Flow's secrets, or other sessions'")
        if _overlap(self.prefix, "worklets"):
            raise ValueError("FLOW_VAULT_PREFIX must not be worklets: sessions have their own secrets there")
        return self

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        if self.kind == "vault":
            if self.address is None:
                raise ValueError("FLOW_SECRETS=vault needs VAULT_ADDR")
            if self.login is None:
                raise ValueError("FLOW_SECRETS=vault needs VAULT_TOKEN, VAULT_ROLE_ID or VAULT_K8S_ROLE")
        if self.token is None and self.role_id is not None and self.secret_id is None:
            raise ValueError("VAULT_ROLE_ID is set, but not VAULT_SECRET_ID")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("VAULT_CLIENT_KEY is set, but not VAULT_CLIENT_CERT")
        if self.skip_verify and not self.insecure:
            raise ValueError(
                "VAULT_SKIP_VERIFY is refused; set VAULT_CACERT to the authority that signed its certificate"
            )
        if self.kind == "vault" and not self.insecure and _is_in_the_open(self.address or ""):
            raise ValueError("VAULT_ADDR is http:// beyond this machine; use https://, or set FLOW_VAULT_INSECURE=true")
        return self


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _is_in_the_open(address: str) -> bool:
    """Whether secrets would cross a network unencrypted."""
    parts = urlsplit(address)
    if parts.scheme != "http" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True
