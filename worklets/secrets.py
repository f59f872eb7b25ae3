"""The secrets that Flow uses for its people: what a store of them is, and what can go wrong with one.

A secret is a few named texts under a path: `await store.get("github")` gives `{"token": "…"}`. There are two stores:
an encrypted file beside Flow's other data (`worklets/secretsfile.py`), and Vault or OpenBao
(`worklets/secretsvault.py`). Values never leave Flow's own processes by it: what a worklet may have of them is put
behind its door to the gateway.

SecretError
├── SecretNameWrong        no name that a secret can have
├── SecretMissing          there is none of that name
├── SecretsSealed          Vault answers, and is sealed or not set up
├── SecretsAway            Vault does not answer
├── SecretsForbidden       Vault does not know us any more
│   └── SecretsNotAllowed  it knows us, and its policy says no
├── SecretsDamaged         the file is torn, or was made with another key
├── SecretsKeyMissing      the file's key is not where it should be
└── SecretsUnwritable      the disk is full, or another process does not let go
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from typing import Any, Protocol

from config.errors import FlowError
from config.secretpatterns import passwords_in

MOST_VALUES = 64  # in one secret
MOST_CHARACTERS = 64 * 1024  # in one value: room for the largest keys and certificates
_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,7}")
#: Names of values that are no secrets: to mask them would take hosts and people out of every text.
_OPEN = {
    "address", "database", "email", "host", "hosts", "name", "org", "port", "project", "repositories", "team", "url",
    "user", "username",
}  # fmt: skip
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class SecretError(FlowError):
    """The secrets cannot be used."""


class SecretNameWrong(SecretError):
    """This is no name of a secret."""

    suggestion = "Write it in small letters, digits and . _ - with / between parts, like github or team/linear."


class SecretMissing(SecretError):
    """There is no such secret."""

    suggestion = "Store it with `flow secrets set`; `flow secrets list` shows which there are."


class SecretsSealed(SecretError):
    """Vault is sealed, so nothing can be read from it."""

    suggestion = "Have it unsealed (`vault operator unseal` or `bao operator unseal`); Flow goes on by itself then."


class SecretsAway(SecretError):
    """Vault does not answer."""

    suggestion = "Check VAULT_ADDR, the server and the network; `flow vault status` tells when it is back."


class SecretsForbidden(SecretError):
    """Vault does not accept Flow's credential."""

    suggestion = "Give Flow another one (VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID) and restart it."


class SecretsNotAllowed(SecretsForbidden):
    """Vault knows Flow, and its policy does not allow this."""

    suggestion = "docs/secrets.md has the policy that Flow needs."


class SecretsDamaged(SecretError):
    """The file with the secrets cannot be decrypted."""

    suggestion = "Restore it from a backup, or move it away and store the secrets anew. Flow does not write over it."


class SecretsKeyMissing(SecretError):
    """The key of the file with the secrets is missing."""

    suggestion = "Restore the key, or move the file away and store the secrets anew."


class SecretsUnwritable(SecretError):
    """The file with the secrets cannot be written."""

    suggestion = "Make room on the disk and check the rights of FLOW_SHARE_DIR; what was stored before is still there."


class SecretStore(Protocol):
    """Where secrets lie. A path is checked by `check_path`; all methods raise SecretError."""

    kind: str  # "file" | "vault"

    async def get(self, path: str) -> Mapping[str, str]:
        """The secret's values by name. Raises SecretMissing."""

    async def put(self, path: str, values: Mapping[str, str], *, keep: bool = False) -> None:
        """Stores the secret, whole or not at all. `keep`: values of other names that it has stay."""

    async def delete(self, path: str) -> None:
        """Removes the secret for good. Raises SecretMissing."""

    async def list(self) -> builtins.list[str]:
        """The paths of all secrets, in order."""

    async def state(self) -> Mapping[str, Any]:
        """{"state": "ok" | "sealed" | "away" | "forbidden" | "damaged", "kind", "error"?}: asked now, never raised.

        Says nothing of what is stored; it may be shown to anybody who may see whether Flow is well.
        """

    def known(self) -> builtins.list[str]:
        """Values that were read or stored by this process: what to mask wherever it stands."""

    async def aclose(self) -> None:
        """Lets go of threads and connections."""


def check_path(path: str) -> str:
    """The path as it came. Raises SecretNameWrong."""
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise SecretNameWrong(f'"{_without_value(path)}" is no name of a secret.')
    return path


def check_values(values: Mapping[str, str]) -> dict[str, str]:
    """A copy of them. Raises SecretError, without saying a value."""
    if not values or len(values) > MOST_VALUES:
        raise SecretError(f"A secret has between 1 and {MOST_VALUES} values.", suggestion="Use several secrets.")
    for key, value in values.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            suggestion = "Use letters, digits and _ . - in it, like token; the value itself is asked for."
            raise SecretNameWrong(f'"{_without_value(key)}" is no name of a value.', suggestion=suggestion)
        if not isinstance(value, str) or not value or len(value) > MOST_CHARACTERS:
            raise SecretError(f'The value "{key}" is no text of 1 to {MOST_CHARACTERS} characters.')
    return dict(values)


def _without_value(name: object) -> str:
    """To be shown: what people write after a = is a secret."""
    return str(name).partition("=")[0][:80]


class Known:
    """Values that passed through here, to be masked: the last `most` ones. Not those that are named as no secrets.

    The password in a value that is an address is one more, whatever the value's name.
    """

    def __init__(self, most: int = 1000) -> None:
        self._values: dict[str, None] = {}
        self._most = most

    def note(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            for secret in (*([value] if key.lower() not in _OPEN else []), *passwords_in([value])):
                self._values.pop(secret, None)
                self._values[secret] = None
        while len(self._values) > self._most:
            del self._values[next(iter(self._values))]

    def values(self) -> builtins.list[str]:
        return list(self._values)
