"""Startup scripts of sessions: an administrator's (FLOW_STARTUP_SCRIPTS), or a repository's (.claude/startup/*.sh).

They run inside the worklet, once in its volume, before Claude: see worklets/image/startup.py. A script of the
administrator's goes before one of the same name in a repository.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from worklets.errors import WorkletStartFailed

if TYPE_CHECKING:
    from worklets.mirrors import Mirrors
    from worklets.profile import Origin, Profile
    from worklets.repositories import Repositories

DIRECTORY = ".claude/startup"
STARTED = "startup.ended"  # in the run directory, once no script keeps Claude waiting
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST = 64 << 10  # bytes of a script: it travels in one environment variable
_LIST_SECONDS = 5.0  # for the names of all scripts: people wait for them
_AT_ONCE = 4  # mirrors that are read: one that takes its time does not hide all others

log = structlog.get_logger(__name__)


class NoScript(WorkletStartFailed):
    """The startup script is not there, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Startup:
    """`text` None: the repository's script of that name."""

    name: str
    text: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Script:
    """`repository`: the name of the one that it stands in; None: an administrator's."""

    name: str
    repository: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """`unread`: how many repositories there was no time for."""

    scripts: tuple[Script, ...]
    unread: int = 0


class Scripts:
    """`directory` None: repositories have scripts only. `seconds` that one may take; `patience`: for their list."""

    def __init__(
        self,
        directory: Path | None,
        seconds: float,
        repositories: Repositories,
        mirrors: Mirrors,
        *,
        patience: float = _LIST_SECONDS,
    ) -> None:
        self._directory, self._seconds, self._patience = directory, seconds, patience
        self._repositories, self._mirrors = repositories, mirrors

    async def part(self, name: str, origin: Origin, profile: Profile) -> Profile:  # noqa: ARG002
        """See `bot.profiles.Part`. Raises NoScript."""
        if origin.startup_script is None:
            return profile
        return replace(profile, startup=await asyncio.to_thread(self._startup, origin))

    async def all(self) -> Listing:
        """What can be chosen from: repositories' as far as a mirror of them is here, in their order. Asks no host."""
        configured = [Script(one) for one in await asyncio.to_thread(self._configured)]
        named = [repository.name for repository in self._repositories.all()]
        waiting, read = iter(named), dict[str, list[str]]()

        async def reader() -> None:
            for name in waiting:
                read[name] = await self._mirrors.files(name, DIRECTORY)

        try:
            async with asyncio.timeout(self._patience), asyncio.TaskGroup() as readers:
                for _ in range(_AT_ONCE):
                    readers.create_task(reader())
        except TimeoutError:
            log.info("there was no time to list all startup scripts", repositories=len(named) - len(read))
        found = [Script(one[:-3], name) for name in named for one in read.get(name, ()) if is_script(one)]
        return Listing((*configured, *found), len(named) - len(read))

    def _configured(self) -> list[str]:
        if self._directory is None or not self._directory.is_dir():
            return []
        return sorted(path.stem for path in self._directory.iterdir() if path.is_file() and is_script(path.name))

    def _startup(self, origin: Origin) -> Startup:
        name = origin.startup_script or ""
        if not is_script(f"{name}.sh"):
            raise NoScript(f"{name[:64]!r} names no startup script.")
        path = self._directory / f"{name}.sh" if self._directory is not None else None
        if path is not None and path.is_file():
            return Startup(name, _read(path), self._seconds)
        if origin.repository is None:
            raise NoScript(
                f"There is no startup script {name}.", suggestion="Start a new thread without it, or with another one."
            )
        return Startup(name, None, self._seconds)


def is_script(name: str) -> bool:
    return name.endswith(".sh") and _NAME.fullmatch(name[:-3]) is not None


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _MOST or b"\0" in data:
            raise ValueError("too long")
        return data.decode()
    except (OSError, ValueError) as e:
        raise NoScript(
            f"The startup script {path.name} cannot be read, or is no text of at most 64 KiB.",
            suggestion="Have the administrator correct it, then write again.",
        ) from e
