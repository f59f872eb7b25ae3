"""The repositories that the settings name, and where each one's login lies."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from config.slices.repositories import DEFAULT
from worklets.errors import CloneFailed
from worklets.git import Login, Source, parted, without_password

if TYPE_CHECKING:
    from config.slices.repositories import RepositorySettings

_TOKEN_USER = "x-access-token"  # noqa: S105 - GitHub wants this name beside a token; others take any


class Secrets(Protocol):
    """What is needed of `worklets.secrets.SecretStore`."""

    async def get(self, path: str, /) -> Mapping[str, str]:
        """Raises SecretMissing, SecretError."""


@dataclass(frozen=True, slots=True)
class Repository:
    """One that the settings name. `address` may hold a password: `shown` does not."""

    name: str
    address: str
    branch: str | None

    @property
    def shown(self) -> str:
        return without_password(self.address)


class Repositories:
    """`secrets` None: logins stand in addresses only."""

    def __init__(self, settings: RepositorySettings, secrets: Secrets | None = None) -> None:
        self.settings = settings
        self._secrets = secrets
        self._known = tuple(Repository(*one) for one in settings.repositories)

    def all(self) -> tuple[Repository, ...]:
        return self._known

    def find(self, named: str) -> Repository | None:
        """By its name, or by its address as it is shown."""
        wanted = _plain(named)
        return next((one for one in self._known if named == one.name or _plain(one.address) == wanted), None)

    async def source(self, named: str) -> Source:
        """Where a session's repository is, of a name or an address. Raises CloneFailed, SecretError."""
        known = self.find(named)
        if known is None:
            if "/" in named or ":" in named:
                return parted(named)
            raise CloneFailed(f"There is no repository named {named[:64]}.", suggestion=self._suggestion())
        source = replace(parted(known.address, known.name), branch=known.branch)
        own = parted(named)
        if own.login is not None:  # somebody's own login goes before Flow's, and is nobody else's
            return replace(own, branch=known.branch)
        if source.login is None and (login := await self._login(known.name)) is not None:
            return replace(source, login=login)
        return source

    def branch_of(self, named: str, branch: str | None) -> str | None:
        """The branch that a session begins at; None: the repository's default one."""
        known = self.find(named)
        return branch or (known.branch if known is not None else None)

    async def _login(self, name: str) -> Login | None:
        if self._secrets is None:
            return None
        from worklets.secrets import SecretMissing

        try:
            found = await self._secrets.get(f"git/{name}")
        except SecretMissing:
            return None
        if token := found.get("token"):
            return Login(found.get("username", _TOKEN_USER), token)
        if password := found.get("password"):
            return Login(found.get("username", ""), password)
        raise CloneFailed(
            f"The secret git/{name} has neither a token nor a password.",
            suggestion=f"Store it anew with `flow secrets set git/{name}`.",
        )

    def _suggestion(self) -> str:
        names = ", ".join(one.name for one in self._known)
        return f"Write one of {names}, or an address." if names else "Write its address, https://host/owner/name.git."


def is_protected(branch: str, patterns: tuple[str, ...], default: str | None) -> bool:
    """Whether one of the patterns (`*` stands for anything) names the branch; @default is the repository's own,
    main or master where that is unknown."""
    defaults = (default,) if default is not None else ("main", "master")
    return any(branch in defaults if one == DEFAULT else fnmatch.fnmatchcase(branch, one) for one in patterns)


def _plain(address: str) -> str:
    return without_password(address).removesuffix("/").removesuffix(".git")
