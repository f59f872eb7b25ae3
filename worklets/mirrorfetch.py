"""Mirrors made, fetched and mended: before a session reads one, it is as the repository was a moment ago."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from worklets.errors import CloneFailed
from worklets.git import Git, GitSaid, Source, failed, masked, symref
from worklets.mirror import Mirror
from worklets.mirrorroom import MirrorRoom

_HEADS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_CONFIG = (("gc.auto", "0"), ("maintenance.auto", "false"), ("gc.pruneExpire", "never"))
_MANY_PACKS = 32  # each fetch brings one; with many of them every git in every worklet gets slow

log = structlog.get_logger(__name__)


class MirrorFetch:
    """`fresh`: seconds for which a mirror counts as the repository's state. `timeout`: seconds until it is there."""

    def __init__(self, git: Git, room: MirrorRoom, *, fresh: float, timeout: float, clock: Callable[[], float]) -> None:
        self._git, self._room = git, room
        self._fresh, self._timeout, self._clock = fresh, timeout, clock

    @asynccontextmanager
    async def ready(self, mirror: Mirror, source: Source, branch: str | None) -> AsyncIterator[None]:
        """The mirror is as the repository was a moment ago, with the branch, and stays while it is read.

        Raises CloneFailed, GitSaid.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._timeout):
                    await asyncio.to_thread(mirror.prepare)
                    if not await self._serves(mirror, branch):
                        async with mirror.locked(fcntl.LOCK_EX):
                            if not await self._serves(mirror, branch):
                                await self._update(mirror, source)
                    # Another program may have it to itself again, and stand still.
                    await held.enter_async_context(mirror.locked(fcntl.LOCK_SH))
            except TimeoutError:
                raise self._late(source) from None
            except OSError as e:
                raise CloneFailed(
                    f"Flow cannot write {mirror.place.parent}: {e.strerror or e}.",
                    suggestion="Check the disk of FLOW_SHARE_DIR.",
                ) from e
            if branch is not None and not await mirror.has(branch):
                raise failed(source, f"Remote branch {branch} not found in upstream origin.")
            mirror.use()
            yield

    async def remake(self, mirror: Mirror, source: Source) -> None:
        """It is fetched whole again, unless somebody else has just done that. Raises CloneFailed, GitSaid."""
        try:
            async with asyncio.timeout(self._timeout), mirror.locked(fcntl.LOCK_EX):
                if not await mirror.is_whole():
                    await self._make(mirror, source)
        except TimeoutError:
            raise self._late(source) from None

    def _late(self, source: Source) -> CloneFailed:
        return CloneFailed(
            f"Cloning {masked(source.address)} took longer than {self._timeout:.0f} s.",
            suggestion="Have FLOW_CLONE_TIMEOUT raised, or try a smaller repository.",
        )

    async def _serves(self, mirror: Mirror, branch: str | None) -> bool:
        """Whether it was fetched a moment ago, and has the branch."""
        try:
            age = self._clock() - (mirror.place / "fetched").stat().st_mtime
        except FileNotFoundError:
            return False
        fresh = 0 <= age < self._fresh and mirror.repo.is_dir()
        return fresh and (branch is None or await mirror.has(branch))

    async def _update(self, mirror: Mirror, source: Source) -> None:
        """Makes or fetches it; its lock is held. Raises GitSaid, CloneFailed."""
        if mirror.repo.is_dir():
            try:
                await self._fetch(mirror, source)
            except GitSaid as e:
                if await asyncio.to_thread(mirror.unlock):  # of a git that was killed; ours is the only one at it
                    await self._fetch(mirror, source)
                elif await mirror.is_whole():
                    raise
                else:
                    log.warning("a mirror cannot be fetched into and is made anew", mirror=mirror.key, error=str(e))
                    await self._make(mirror, source)
        else:
            await self._make(mirror, source)
        (mirror.place / "fetched").touch()
        now = self._clock()
        os.utime(mirror.place / "fetched", (now, now))

    async def _make(self, mirror: Mirror, source: Source) -> None:
        await self._room.make_room(mirror.key)
        await asyncio.to_thread(mirror.remove_drafts)
        draft = mirror.draft()
        log.info("making a mirror", mirror=mirror.key, repository=masked(source.address))
        began = time.monotonic()
        try:
            cloning = self._git.run(
                "clone", "--bare", "--no-local", "--quiet", "--template=", "--", source.address, str(draft),
                source=source,
            )  # fmt: skip
            await self._room.held(self._room.directory, cloning)
            for name, value in _CONFIG:
                await self._git.run(f"--git-dir={draft}", "config", name, value)
            await mirror.become(draft)
        finally:
            await asyncio.to_thread(mirror.remove_drafts)
        log.info("a mirror is made", mirror=mirror.key, seconds=round(time.monotonic() - began, 1))

    async def _fetch(self, mirror: Mirror, source: Source) -> None:
        here = f"--git-dir={mirror.repo}"
        fetching = self._git.run(
            here, "-c", "fetch.unpackLimit=1", "fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head",
            "--no-recurse-submodules", "--", source.address, *_HEADS, source=source,
        )  # fmt: skip
        asking = self._git.run("ls-remote", "--symref", "--", source.address, "HEAD", source=source)
        async with asyncio.TaskGroup() as both:
            fetched = both.create_task(_said(self._room.held(mirror.repo, fetching)))
            asked = both.create_task(_said(asking))
        for result in (fetched.result(), asked.result()):
            if isinstance(result, Exception):
                raise result
        if default := symref(str(asked.result())):
            await self._git.run(here, "symbolic-ref", "HEAD", f"refs/heads/{default}")
        if await asyncio.to_thread(mirror.packs) > _MANY_PACKS:
            await self._git.run(here, "repack", "-q", "-d", "--geometric=2", "--no-write-bitmap-index")


async def _said(work: Awaitable[str]) -> str | GitSaid | CloneFailed:
    """So that one of two does not cut the other off, and is heard as what it is, not as one of a group."""
    try:
        return await work
    except (GitSaid, CloneFailed) as e:
        return e
