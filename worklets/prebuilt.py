"""Worklet images on other base images: each made once for what it is made of, and kept until nobody wants it.

An image is named by a hash of its Dockerfile and context, the versions in it, and the base image's id. Whoever needs
one that is being made waits for it; one is made at a time on a machine, by all processes that share the share
directory (a lock file), and at a low priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import structlog

from worklets import fetchedbases
from worklets import prebuiltimages as images
from worklets.engine import Engine, EngineAt
from worklets.errors import ImageMissing, WorkletError
from worklets.fetchedbases import Base, Fetched
from worklets.imagebuild import BUILD_SECONDS, BuildFailed, Recipe, recipe
from worklets.prebuiltimages import BaseGone, BaseUnfit, Image
from worklets.room import Room

log = structlog.get_logger(__name__)

_FORGET = 300.0  # seconds for which a failure is told without trying again
_FETCHED = "fetched.json"  # beside the times of images
_LOOK = 0.5  # seconds between two looks at the lock of another process
_STEP = re.compile(r"Step (\d+)/(\d+) ")

list_ = list  # `Prebuilt.list` hides the builtin inside the class
Step = Callable[[str], None]


class _Build:
    """One that is under way. Its steps go to everybody who waits."""

    def __init__(self) -> None:
        self.task: asyncio.Task[str] | None = None
        self.listeners: list[Step] = []
        self.last = "image"

    def tell(self, step: str) -> None:
        self.last = step
        for listener in tuple(self.listeners):
            listener(step)


class Prebuilt:
    """One per program. `instance` names this Flow among others on the engine: each removes only what it made.

    `keep`: so many images stay that nobody uses, those used last; after a build also those used within `young` seconds,
    of which a container may be about to be made. `fetches` False: a base has to be here, it comes from no registry.
    `clock` counts seconds. `room`: nothing is fetched or built without any.
    """

    def __init__(
        self,
        share_dir: Path,
        instance: str,
        docker_host: EngineAt | str | None = None,
        *,
        keep: int = 3,
        young: float = 600.0,
        made_of: Callable[[], Recipe] = recipe,
        fetches: bool = True,
        clock: Callable[[], float] = time.monotonic,
        room: Room | None = None,
    ) -> None:
        self._directory, self._instance = share_dir / "images", instance
        self._engine = Engine(docker_host, timeout=60.0)
        self._keep, self._young, self._made_of, self._clock = keep, young, made_of, clock
        self._fetches, self._room = fetches, room or Room(share_dir)
        self._builds: dict[str, _Build] = {}
        self._failed: dict[str, tuple[float, WorkletError]] = {}  # by key: until when it is not tried again, and why
        self._recipe: Recipe | None = None
        self._closing = False
        self._tidying: asyncio.Task[None] | None = None
        self._unfit: set[str] = set()  # bases of which no image can be made
        self._untidy = False  # an image was made since the old ones were last looked at

    async def image(self, base: str, on_step: Step) -> str:
        """The tag of the worklet image on `base`, made where it is missing.

        `on_step` is told "image" while something is fetched or waited for, and "image 4/12". Whoever stops waiting
        stops nothing. Raises BaseUnfit, ImageMissing with the build's last lines, RuntimeUnavailable,
        WorkletStartFailed for a full disk.
        """
        found = await self._found(base)
        if found is not None:
            return found
        if (known := self._failed.get(base)) is not None and self._clock() < known[0]:
            raise known[1]
        build = self._builds.get(base)
        if build is None:
            build = self._builds[base] = _Build()
            build.task = asyncio.create_task(self._make(base, build), name=f"image on {base}")
            build.task.add_done_callback(lambda task: self._made(base, task))
        assert build.task is not None
        on_step(build.last)
        build.listeners.append(on_step)
        try:
            return await asyncio.shield(build.task)
        finally:
            build.listeners.remove(on_step)

    @property
    def building(self) -> list_[str]:
        """The bases whose images are being made, or wait for that."""
        return sorted(self._builds)

    async def fetch(self, base: str) -> None:
        """The newest image of that name from its registry.

        Raises ImageMissing, RuntimeUnavailable, WorkletStartFailed for a full disk.
        """
        await self._room.require()
        async with self._alone():
            known = [one.id for one in await asyncio.to_thread(self._records)]
            pull = partial(images.pull, base=base, known=known)
            new = await self._engine.call("build", pull, timeout=BUILD_SECONDS)
            self._unfit.discard(base)
            if new is not None:
                await asyncio.to_thread(self._record, new)

    async def list(self) -> list_[Image]:
        """Those of ours on this engine, used last first. Raises RuntimeUnavailable."""
        used = await asyncio.to_thread(self._used)
        found = await self._engine.call("query", lambda client: images.ours(client, used))
        return sorted(found, key=lambda one: one.used or 0.0, reverse=True)

    async def prune(self, keep: int | None = None, young: float = 0.0) -> list_[Image]:
        """Removes those that no container is made of, all but the `keep` used last; one at a time. What went.

        Not those used within `young` seconds. Raises RuntimeUnavailable.
        """
        gone, began = list_[Image](), time.time()
        while some := await self._prune(self._keep if keep is None else keep, began - young):
            gone += some  # those that they were made on are idle now
        return gone

    async def _prune(self, keep: int, since: float) -> list_[Image]:
        idle = [one for one in await self.list() if one.instance == self._instance and not one.busy]
        gone = list_[Image]()
        for one in idle[keep:]:
            if (one.used or 0.0) >= since:
                continue
            if (await asyncio.to_thread(self._used)).get(one.key) != one.used:
                continue  # somebody has got it since: it was a while, others had to go first
            if await self._engine.call("remove", partial(images.remove, image=one.tag), timeout=120):
                gone.append(one)
                await asyncio.to_thread((self._directory / one.key).unlink, missing_ok=True)
        return gone

    async def bases(self) -> list_[Base]:
        """Base images that this Flow fetched, the newest first. Raises RuntimeUnavailable, ImageMissing."""
        async with self._alone(wait=False) as alone:
            found = await self._bases()
            if alone:  # what is gone is somebody else's when it comes again
                await asyncio.to_thread(self._keep_records, {one.fetched.id for one in found})
        return found

    async def _bases(self) -> list_[Base]:
        records = await asyncio.to_thread(self._records)
        found = await self._engine.call("query", lambda client: images.fetched_bases(client, records))
        return sorted(found, key=lambda one: one.fetched.at, reverse=True)

    async def prune_bases(self, young: float = 0.0) -> list_[Base]:
        """Removes those of which nothing is made, no image and no container, one at a time. What went.

        Not those fetched within `young` seconds, but for unfit ones, nor those that somebody has given another name;
        none while an image is being made or fetched. Raises RuntimeUnavailable, ImageMissing.
        """
        gone, since = list_[Base](), time.time() - young
        async with self._alone(wait=False) as alone:
            if not alone:
                return []
            found = await self._bases()
            for one in found:
                is_young = young and one.fetched.at >= since and one.fetched.base not in self._unfit
                if one.busy or one.shared or is_young:
                    continue
                if await self._engine.call("remove", partial(images.remove, image=one.fetched.id), timeout=120):
                    gone.append(one)
            there = {one.fetched.id for one in found} - {one.fetched.id for one in gone}
            await asyncio.to_thread(self._keep_records, there)
        return gone

    async def aclose(self) -> None:
        """Ends the build that is under way at its next line; what it has made so far is the engine's cache."""
        self._closing = True
        tasks: list_[asyncio.Task[Any]] = [build.task for build in self._builds.values() if build.task is not None]
        if self._tidying is not None:
            tasks.append(self._tidying)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._engine.close()

    # ---- one image ----

    async def _found(self, base: str) -> str | None:
        """The tag, if the image is there."""
        made_of = await self._current()
        key = await self._engine.call("query", partial(images.find, base=base, made_of=made_of))
        if key is None:
            return None
        await asyncio.to_thread(self._touch, key)
        return images.tag_of(key)

    async def _current(self) -> Recipe:
        """Read once: what is installed does not change under a running program."""
        if self._recipe is None:
            self._recipe = await asyncio.to_thread(self._made_of)
        return self._recipe

    async def _make(self, base: str, build: _Build) -> str:
        async with self._alone():
            if (found := await self._found(base)) is not None:  # another process was quicker
                return found
            await self._room.require()
            made_of, loop = await self._current(), asyncio.get_running_loop()

            def progress(line: str) -> None:
                if self._closing:
                    raise BuildFailed("Flow is stopping")
                if step := _STEP.match(line):
                    loop.call_soon_threadsafe(build.tell, f"image {step[1]}/{step[2]}")

            started = time.monotonic()
            work = partial(
                images.build, base=base, made_of=made_of, instance=self._instance, progress=progress,
                fetched=self._record if self._fetches else None,
            )  # fmt: skip
            key = await self._engine.call("build", work, timeout=BUILD_SECONDS)
            log.info("an image was made", base=base, key=key, seconds=round(time.monotonic() - started, 1))
            await asyncio.to_thread(self._touch, key)
        return images.tag_of(key)

    def _made(self, base: str, task: asyncio.Task[str]) -> None:
        self._builds.pop(base, None)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, BaseUnfit | ImageMissing) and not isinstance(error, BaseGone):
            log.warning("an image could not be made", base=base, error=str(error))
            now = self._clock()
            self._failed = {one: told for one, told in self._failed.items() if told[0] > now}
            self._failed[base] = now + _FORGET, error
        else:
            self._failed.pop(base, None)
        (self._unfit.add if isinstance(error, BaseUnfit) else self._unfit.discard)(base)
        if isinstance(error, BaseUnfit | None) and not self._closing:  # one that is unfit may have been fetched
            self._untidy = True
            if self._tidying is None or self._tidying.done():
                self._tidying = asyncio.create_task(self._tidy(), name="old images")

    async def _tidy(self) -> None:
        while self._untidy:
            self._untidy = False
            try:
                for one in await self.prune(young=self._young):
                    log.info("an image that nobody uses was removed", image=one.tag, base=one.base)
                for base in await self.prune_bases(young=self._young):
                    log.info("a base image that nobody uses was removed", base=base.fetched.base)
            except WorkletError as error:
                log.warning("old images stay", error=str(error))

    @contextlib.asynccontextmanager
    async def _alone(self, *, wait: bool = True) -> AsyncIterator[bool]:
        """No other build on this machine meanwhile. The lock ends with the process that holds it.

        False: another is at work, and that is not waited for.
        """
        try:
            file = self._open_lock()  # not in a thread, from which one who is cancelled never gets it to close it
        except OSError as error:
            raise _unwritten(self._directory, error) from error
        try:
            while not (mine := _locked(file)) and wait:  # noqa: ASYNC110 - another process has it, and sets no event
                await asyncio.sleep(_LOOK)
            yield mine
        finally:
            file.close()

    def _open_lock(self) -> IO[bytes]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (self._directory / ".lock").open("ab")

    def _touch(self, key: str) -> None:
        """Its time is when the image was used last."""
        with contextlib.suppress(OSError):  # then it counts as unused
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._directory / key).touch(mode=0o600)

    def _records(self) -> list_[Fetched]:
        try:
            return fetchedbases.read(self._directory / _FETCHED)
        except OSError as error:
            raise _unwritten(self._directory, error) from error

    def _record(self, new: Fetched) -> None:
        """Whoever calls has the lock. Raises ImageMissing."""
        try:
            known = [one for one in self._records() if one.id != new.id]
            fetchedbases.write(self._directory / _FETCHED, [*known, new])
        except OSError as error:
            raise _unwritten(self._directory, error) from error

    def _keep_records(self, ids: set[str]) -> None:
        """Of the others nothing is on the engine. Whoever calls has the lock. Raises ImageMissing."""
        known = self._records()
        kept = [one for one in known if one.id in ids]
        if kept != known:
            try:
                fetchedbases.write(self._directory / _FETCHED, kept)
            except OSError as error:
                raise _unwritten(self._directory, error) from error

    def _used(self) -> dict[str, float]:
        """One that goes meanwhile, a file that is about to be renamed say, takes nothing from the others."""
        used: dict[str, float] = {}
        with contextlib.suppress(OSError), os.scandir(self._directory) as found:
            for one in found:
                with contextlib.suppress(OSError):
                    used[one.name] = one.stat().st_mtime
        used.pop(".lock", None)
        return used


def _unwritten(directory: Path, error: OSError) -> ImageMissing:
    return ImageMissing(f"Flow cannot write {directory}: {error.strerror or error}.", suggestion="Check its rights.")


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
