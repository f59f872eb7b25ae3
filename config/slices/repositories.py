"""Repositories that sessions may be started with, how they are kept, and what may be done with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from config.slices.base import DAY, Bytes, Names, Retention, Seconds, Slice, setting

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
#: "https://me:a#b@host/x" and "https://me:a/b@host/x": what stands for the host is the first half of a login.
_CUT_LOGIN = re.compile(
    r"https?://[^/?#]*(?:[/?][^#]*@|#.*@)|https?://[^/?#@]*:(?![0-9]*(?:[/?#]|$))[^/?#@]*(?:[/?#]|$)"
)
DEFAULT = "@default"  # of protected branches: the one that a repository's HEAD names


def parse_repositories(value: object) -> tuple[tuple[str, str, str | None], ...]:
    """(name, address, branch or None) of "app=https://host/o/app.git#main, web=…", or of an object name → that.

    Raises ValueError.
    """
    if isinstance(value, tuple):
        return value
    if isinstance(value, str):
        pairs = [_pair(one) for one in re.split(r"[,\s]+", value) if one]
    elif isinstance(value, Mapping):
        pairs = [(str(name), str(address)) for name, address in value.items()]
    else:
        raise ValueError("it is not a list like app=https://host/owner/app.git")
    names = [name for name, _ in pairs]
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f'"{name}" cannot name a repository; use a-z, 0-9 and . _ -, 64 at most')
        if names.count(name) > 1:
            raise ValueError(f"{name} is there twice")
    found = []
    for name, address in pairs:
        plain, _, branch = address.partition("#")
        if not re.search(r"[/:]", plain) or re.search(r"\s", plain):
            raise ValueError(f"{name} has no address; write {name}=https://host/owner/{name}.git")
        if _CUT_LOGIN.match(address):
            raise ValueError(f"{name}: a login in an address has no /, ? or #; write them as %2F, %3F and %23")
        found.append((name, plain, branch or None))
    return tuple(found)


def _pair(text: str) -> tuple[str, str]:
    name, found, address = text.partition("=")
    if not found or "/" in name or ":" in name:
        raise ValueError("an address has no name; write name=https://host/owner/name.git")  # it may hold a password
    return name, address


Repositories = Annotated[tuple[tuple[str, str, str | None], ...], BeforeValidator(parse_repositories)]


class RepositorySettings(Slice):
    repositories: Repositories = setting(
        "FLOW_REPOSITORIES",
        (),
        "Repositories by name, e.g. app=https://host/owner/app.git#main (a branch if need be).",
    )
    push: Literal["ask", "allow", "never"] = setting(
        "FLOW_PUSH", "ask", "May Claude push its session's branch: ask in the thread, allow or never."
    )
    protected: Names = setting(
        "FLOW_PROTECTED_BRANCHES",
        (DEFAULT,),
        "Branches that nobody may push to from a worklet, e.g. @default,release-*; none protects none.",
    )
    fresh: Seconds = setting("FLOW_MIRROR_FRESH", 30.0, "Age at which a repository is fetched again for a new session.")
    timeout: Seconds = setting("FLOW_CLONE_TIMEOUT", 900.0, "Time that a repository's first fetch may take, e.g. 15m.")
    limit: Bytes = setting(
        "FLOW_MIRROR_LIMIT", 20 * 1024**3, "Disk of all repositories' mirrors; unused ones go first.", ge=1024**2
    )
    keep: Retention = setting("FLOW_MIRROR_RETENTION", 30 * DAY, "Disuse after which a mirror is removed, or never.")
    api: str | None = setting(
        "FLOW_FORGE_API",
        None,
        "REST API for pull requests; unset: of the repository's host, as GitHub has it. GitLab's ends in /api/v4.",
    )
    scripts: Path | None = setting("FLOW_STARTUP_SCRIPTS", None, "Directory with startup scripts (*.sh) for sessions.")
    script_timeout: Seconds = setting("FLOW_STARTUP_TIMEOUT", 300.0, "Time that a startup script may take, e.g. 5m.")

    @field_validator("protected")
    @classmethod
    def _none_is_none(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return () if value == ("none",) else value

    @field_validator("api")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/@\s]+(/|$)", value):
            raise ValueError("it must begin with https:// or http:// and a host, without a name or password")
        return value.rstrip("/") if value is not None else None
