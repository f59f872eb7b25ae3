"""One bare mirror of each repository, which all sessions share: the second session does not fetch it again.

    <share_dir>/mirrors             0700
    └── <key>/                      one address; the key says nothing about it
        ├── lock                    held (flock) while the mirror is made, fetched, packed or removed; shared to read
        ├── used, fetched           when that was, by their times
        └── repo.git/               branches and tags, with all their history

A session's clone has no objects of its own: it names the mirror's as its alternates. Its worklet sees that one
directory as a mount that cannot be written, whoever owns the files: so a hostile worklet can neither change the mirror
nor fill the disk with copies of it. Hard links would be as quick to make, but the volume belongs to the worklet, which
could write through them.

Nothing is ever pruned from a mirror, since a clone may need what no branch leads to any more: packs are only joined. A
mirror is made elsewhere and moved into its place, so that half of one is never seen. One that is broken, as git's own
check of it says, is fetched whole again; its objects' directory stays, since running worklets have it mounted, and so
does each pack of it that is sound. Which mirrors worklets need stands in their directories (`rundir`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from config.errors import FlowError
from worklets.git import Git, GitSaid, Source, failed, parted, reason, symref
from worklets.identity import Identity
from worklets.mirror import Mirror
from worklets.mirrorclone import Clone, MirrorClone, clear
from worklets.mirrorfetch import MirrorFetch
from worklets.mirrorroom import MirrorRoom

_QUICK = 60.0  # seconds for what reads the mirror only
_LOGIN_SECONDS = 5.0  # for a login that only says which mirror it is

Resolve = Callable[[str], Awaitable[Source]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Branches:
    """`default`: None where the repository is empty. `names` sorted."""

    default: str | None
    names: tuple[str, ...]


class Mirrors:
    """One per program; several programs may share the directory.

    `fresh`: seconds for which a mirror counts as the repository's state. `limit`: bytes of all of them. `keep`: seconds
    without use; None: for good. `disk`: bytes that a clone's files may take; 0: any. `resolve` makes an address with
    its login of what sessions name.
    """

    def __init__(
        self,
        share_dir: Path,
        identity: Identity,
        git: Git | None = None,
        *,
        resolve: Resolve | None = None,
        fresh: float = 30.0,
        timeout: float = 900.0,
        limit: int = 20 << 30,
        keep: float | None = 30 * 86_400.0,
        disk: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.room = MirrorRoom(share_dir.resolve(), limit=limit, keep=keep, clock=clock)
        self._identity, self._git = identity, git or Git()
        self._resolve: Resolve = resolve or _as_written
        self._fetch = MirrorFetch(self._git, self.room, fresh=fresh, timeout=timeout, clock=clock)
        self._clone = MirrorClone(self._git, disk)

    async def checkout(
        self,
        repository: str,
        branch: str | None,
        destination: Path,
        *,
        worklet: str,
        work_branch: str | None = None,
        seen_at: Callable[[Path], str | None] = str,
    ) -> None:
        """A clone at `branch` (None: the default one) in `destination`, which is missing or empty, on `work_branch`.

        `worklet` needs the mirror from now on, and sees its objects at `seen_at(objects)`; None: it
        cannot, and the clone has all of its own. Raises CloneFailed with git's own reason and no password in it; then
        `destination` is as before.
        """
        source = await self._resolve(repository)
        branch = branch if branch is not None else source.branch
        self._git.check(source.address, branch)
        existed = await asyncio.to_thread(destination.exists)
        mirror, clone = self.mirror(source), Clone(source, branch, destination, work_branch)
        try:
            async with self._fetch.ready(mirror, source, branch):
                await asyncio.to_thread(self.room.need, worklet, mirror.key)
                try:
                    await self._clone.make(mirror, clone, seen_at(mirror.objects))
                    return
                except GitSaid as e:
                    if await mirror.is_whole():
                        raise  # a disk that is full, a branch that git does not take: the mirror is not to blame
                    log.warning("a mirror cannot be read and is made anew", mirror=mirror.key, error=reason(str(e)))
            await clear(destination, existed)
            await self._fetch.remake(mirror, source)
            async with self._fetch.ready(mirror, source, branch):
                await self._clone.make(mirror, clone, seen_at(mirror.objects))
        except GitSaid as e:
            await clear(destination, existed)
            raise failed(source, reason(str(e))) from None
        except BaseException:
            await clear(destination, existed)
            raise

    async def branches(self, repository: str) -> Branches:
        """Those of the repository now, without a mirror. Raises CloneFailed."""
        source = await self._resolve(repository)
        self._git.check(source.address)
        try:
            async with asyncio.timeout(_QUICK):
                said = await self._git.run("ls-remote", "--symref", "--", source.address, "HEAD", "refs/heads/*",
                                           source=source)  # fmt: skip
        except TimeoutError:
            raise failed(source, "it did not answer in time.") from None
        except GitSaid as e:
            raise failed(source, reason(str(e))) from None
        names = [ref.removeprefix("refs/heads/") for _, _, ref in (line.partition("\t") for line in said.splitlines())
                 if ref.startswith("refs/heads/")]  # fmt: skip
        return Branches(symref(said), tuple(sorted(names)))

    async def known_branches(self, repository: str, most: int) -> tuple[str, ...] | None:
        """As its mirror has them, the newest commits first, at most so many; none without a mirror. Asks no host.

        None: they cannot be told just now, since a login belongs to a mirror's name and its store does not answer, say.
        """
        try:
            async with asyncio.timeout(_LOGIN_SECONDS):
                source = await self._resolve(repository)
            mirror = self.mirror(source)
            if not await asyncio.to_thread(mirror.repo.is_dir):
                return ()
            async with asyncio.timeout(_QUICK):
                return await mirror.newest(most)
        except (GitSaid, FlowError, TimeoutError) as e:
            log.debug("a mirror's branches cannot be listed", repository=repository, error=str(e))
            return None

    async def files(self, repository: str, directory: str) -> list[str]:
        """Names in a directory of the repository, as the mirror has its default branch; none without a mirror."""
        try:
            source = await self._resolve(repository)
            mirror = self.mirror(source)
            if not mirror.repo.is_dir():
                return []
            return await mirror.files(directory, source.branch or "HEAD")
        except (GitSaid, FlowError) as e:
            log.debug("a mirror's files cannot be listed", repository=repository, error=str(e))
            return []

    def objects_of(self, worklet: str) -> Path | None:
        """The directory that the worklet's clone has its objects in; None: it needs none."""
        key = self.room.needed_by(worklet)
        if key is None:
            return None
        mirror = Mirror(self.room.directory / key, self._git)
        if not mirror.objects.is_dir():
            log.warning("a worklet's mirror is gone: git does not work in its repository", worklet=worklet, mirror=key)
            return None
        mirror.use()
        return mirror.objects

    def default_of(self, worklet: str) -> str | None:
        """The default branch of the worklet's repository, as of its last fetch; None: unknown."""
        objects = self.objects_of(worklet)
        try:
            head = (objects.parent / "HEAD").read_text(encoding="utf-8").strip() if objects else ""
        except (OSError, ValueError):
            return None
        return head.removeprefix("ref: refs/heads/") if head.startswith("ref: refs/heads/") else None

    def forked(self, source: str, worklet: str) -> None:
        """The worklet has a copy of the other one's volume. Raises OSError."""
        if (key := self.room.needed_by(source)) is not None:
            self.room.need(worklet, key)

    async def sweep(self) -> list[str]:
        """Removes what nobody needs any more, see `MirrorRoom.sweep`: its keys."""
        return await self.room.sweep()

    def state(self) -> dict[str, Any]:
        """{"mirrors", "bytes", "limit"}: how many there are, what they take and may take."""
        return self.room.state()

    def mirror(self, source: Source) -> Mirror:
        """The one that serves this address and its login; it may not be there yet."""
        login = source.login.username if source.login else ""
        password = source.login.password if source.login and source.name is None else ""  # of an address: whose it is
        named = "\0".join((source.name or "", source.address, login, password))
        return Mirror(self.room.directory / self._identity.token("mirror", named)[:24], self._git)


async def _as_written(repository: str) -> Source:
    return parted(repository)
