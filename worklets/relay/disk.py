"""Watches what a worklet keeps on disk, and says so when it comes near its limit.

What stands there is added up file by file: 50,000 take a third of a second. So that is not done on a clock: the disk's
own counter of used blocks, which costs nothing, tells by how much everybody together has written since the last time,
and a worklet cannot have written more. What others delete meanwhile may hide what this one writes, so it is done every
ten minutes in any case. It never takes more than a twentieth of a processor.

No process is started for it (`du`, say): it would be of the agent's user, who can stop it before it has become another
program, and the relay would stand still with it.

A worklet can keep it from being done, by taking all processors. Then the counter alone is gone by: one that cannot be
measured for a while, and may be beyond its limit by what was written meanwhile, is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LOOK = 2.0  # seconds between looks at the counter: so long a worklet may write unseen
_LONGEST = 600.0  # seconds without adding up
_SHARE = 20  # times as long as it took, nothing is added up again
_WAITING = 0.05  # seconds of work that a second counts in which it waited: for the disk, or for others to have worked
_PATIENCE = 20.0  # seconds that a measuring may take; twice as long at each further try
_TRIES, _BLIND = 3, 20.0  # so many tries, over so many seconds at least, before the counter alone counts
_STEP = 1 << 20  # bytes that are not worth a look
_NEAR = 0.8  # of the limit: people are told
_SLICE = 0.002  # seconds of looking at files, before others have their turn

_FILE = 4096  # bytes that each file counts at least: a disk has room for so many, and no more
_DEEPEST = 200  # directories, one within the other: two open files each
_MOST_LINKED = 500_000  # files with several names that are known again; beyond, each name counts

#: Bytes that are used; None: that cannot be told now. It is given the seconds that it may take.
Measure = Callable[[float], Awaitable["int | None"]]


class Watch:
    """`tell(used, full, measured)` is awaited when the limit is near, and when it is reached; bytes.

    `measured` is false where `used` is the most that it may be. `say` is for the log. A worklet that has more than its
    limit when it starts is not ended at once, so that Claude can delete something: it may grow by a twentieth of the
    limit.

    `crowd(used)` is awaited, and it is over as well, when `own()`, bytes on disks of the worklet's own, grows while the
    disk that these take up has less than `floor` bytes left by `free()`.
    """

    def __init__(
        self,
        limit: int,
        tell: Callable[[int, bool, bool], Awaitable[None]],
        *,
        measure: Measure,
        counter: Callable[[], int],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = lambda: sum(os.times()[:4]),
        floor: int = 0,
        free: Callable[[], int] = lambda: 0,
        own: Callable[[], int] = lambda: 0,
        crowd: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._limit, self._stop = limit, limit
        self._tell, self._measure, self._counter, self._clock = tell, measure, counter, clock
        self._say = say
        self._work = work  # processor time of this process, and of those that it has ended, in seconds
        self._used: int | None = None  # at the last measuring; None: there was none
        self._counted: int | None = None  # by the disk's counter, then; or at the first look
        self._ended, self._cost = 0.0, 0.0  # when it had ended, how long it took
        self._failures, self._failing_since = 0, 0.0  # in a row
        self._told = False
        self._floor, self._free, self._own, self._crowd = floor, free, own, crowd
        self._allowed: int | None = None  # what it had when the disk had room, or less by now

    @property
    def used(self) -> int | None:
        """Bytes at the last measuring; None: there was none yet."""
        return self._used

    async def run(self, pause: float = LOOK) -> None:
        """Returns when the limit is reached, and that is told. Whatever fails is tried again."""
        while True:
            try:
                if await self.look():
                    return
            except Exception as error:  # noqa: BLE001 - a watch that dies silently is no limit
                self._say(f"the disk could not be looked at, trying again: {error!r}")
            await asyncio.sleep(pause)

    async def look(self) -> bool:
        """Whether the limit is reached. Measures if it has to."""
        if self._crowd is not None and await self._crowds(self._crowd):
            return True
        counted = self._counter()
        if self._counted is None:
            self._counted = counted
        if not self._is_due(counted - self._counted):
            return False
        used = await self._try()
        if used is None:
            return await self._judge_blindly()
        if self._used is None:
            self._stop = max(self._limit, used + self._limit // 20)
        self._used, self._counted, self._failures = used, counted, 0
        return await self._judge(used)

    async def _crowds(self, crowd: Callable[[int], Awaitable[None]]) -> bool:
        """Whether it writes on though the disk is nearly full, where its neighbours would lose what they write."""
        own = self._own()
        if self._allowed is None or own < self._allowed or self._free() >= self._floor:
            self._allowed = own
        if own - self._allowed < _STEP:
            return False
        self._say("the disk is nearly full, and this worklet writes on: ending")
        await crowd(own)
        return True

    async def _try(self) -> int | None:
        began, worked, why = self._clock(), self._work(), "it took too long, or said nothing"
        used = None
        try:
            used = await self._measure(_PATIENCE * 2 ** min(self._failures, _TRIES))
        except Exception as error:  # noqa: BLE001 - no process, no thread, no memory: all may be had again later
            why = repr(error)
        self._ended = self._clock()
        self._cost = max(self._work() - worked, _WAITING * (self._ended - began))
        if used is None:
            if not self._failures:
                self._say(f"the disk could not be measured, trying again: {why}")
                self._failing_since = began
            self._failures += 1
        return used

    @property
    def _left(self) -> int:
        return self._stop - (self._used or 0)

    def _is_due(self, grown: int) -> bool:
        since = self._clock() - self._ended
        if self._failures and grown >= self._left:
            return True  # it may be beyond its limit
        if self._cost and since < _SHARE * self._cost:
            return False
        if self._used is None:
            return True
        return grown >= max(_STEP, self._left // 4) or since >= _LONGEST

    async def _judge_blindly(self) -> bool:
        """Measuring failed, and not for the first time: it counts what everybody together has written."""
        grown = self._counter() - (self._counted or 0)
        if self._failures < _TRIES or self._ended - self._failing_since < _BLIND or grown < self._left:
            return False
        self._say(f"the disk could not be measured {self._failures} times, and {grown} bytes were written: ending")
        await self._tell((self._used or 0) + grown, True, False)
        return True

    async def _judge(self, used: int) -> bool:
        if used >= self._stop:
            await self._tell(used, True, True)
            return True
        near = used >= _NEAR * self._limit
        if near and not self._told:
            await self._tell(used, False, True)
        self._told = near
        return False


def counter(paths: Sequence[str]) -> int:
    """Bytes that are used on the disks below the paths, by everybody; and 4 KiB for each file."""
    disks = {_device(path): path for path in paths}.values()
    return sum(_used(path) + _FILE * _files(path) for path in disks)


async def measure(paths: Sequence[str], volumes: Sequence[str] = (), patience: float = _PATIENCE) -> int | None:
    """Bytes that files below the paths take, and deleted ones that are still open. None: it cannot be told now.

    A file takes 4 KiB at least. `volumes` are disks that belong to this worklet alone: what is used on them need not be
    added up. Where there are some, nobody but who hides something has directories beside them that cannot be read, and
    those are not passed over. Raises OSError where it cannot be read at all.
    """
    end = time.monotonic() + patience
    total = sum(map(_used, volumes))
    if not paths:
        return total
    seen: set[tuple[int, int]] = set()
    trees = chain.from_iterable(_tree(path, seen, strictly=bool(volumes)) for path in paths)
    sizes = files = 0
    async with contextlib.aclosing(_unhurried(trees, end)) as found:
        async for size in found:
            if size is None:
                return None
            sizes, files = sizes + size, files + 1
    unlinked = await _unlinked(set(map(_device, paths)), end)
    return None if unlinked is None else total + max(sizes, _FILE * files) + unlinked


def used(volumes: Sequence[str]) -> int:
    """Bytes on disks that belong to this worklet alone."""
    return sum(map(_used, volumes))


def free(paths: Sequence[str]) -> int:
    """Bytes that are left on the fullest of the disks below the paths."""
    disks = map(os.statvfs, paths)
    return min(disk.f_bavail * disk.f_frsize for disk in disks)


def _used(path: str) -> int:
    disk = os.statvfs(path)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def _files(path: str) -> int:
    disk = os.statvfs(path)
    return disk.f_files - disk.f_ffree


def _device(path: str) -> int:
    return Path(path).stat().st_dev


def _tree(path: str, seen: set[tuple[int, int]], *, strictly: bool) -> Iterator[int | None]:
    """The bytes of each file at and below the path that is on its disk. None: something there cannot be read.

    By handles of directories, so that no path is too long. `seen` are those with several names.
    """
    top = os.stat(path)  # noqa: PTH116
    yield top.st_blocks * 512
    levels = [_Level(path)]
    try:
        while levels:
            try:
                if (entry := next(levels[-1].entries, None)) is None:
                    levels.pop().close()
                    continue
                one = entry.stat(follow_symlinks=False)
                if one.st_dev != top.st_dev:
                    continue
                if one.st_nlink > 1 and not stat.S_ISDIR(one.st_mode) and len(seen) < _MOST_LINKED:
                    if (place := (one.st_dev, one.st_ino)) in seen:
                        continue
                    seen.add(place)
                yield one.st_blocks * 512
                if stat.S_ISDIR(one.st_mode):
                    if len(levels) == _DEEPEST:
                        yield None
                    levels.append(_Level(entry.name, levels[-1].handle))
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    if strictly:
                        yield None
                elif error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # it was taken away meanwhile
                    raise
    finally:
        for level in levels:
            level.close()


class _Level:
    """A directory that is being read. Raises OSError."""

    def __init__(self, name: str, above: int | None = None) -> None:
        self.handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            self.entries = os.scandir(self.handle)
        except BaseException:
            os.close(self.handle)
            raise

    def close(self) -> None:
        self.entries.close()
        os.close(self.handle)


async def _unhurried(items: Iterator[T], end: float) -> AsyncGenerator[T | None, None]:
    """The items, with turns for others; None when it takes longer than until `end`."""
    pause = time.monotonic() + _SLICE
    for item in items:
        yield item
        if (now := time.monotonic()) > pause:
            if now > end:
                yield None
                return
            await asyncio.sleep(0)
            pause = time.monotonic() + _SLICE
    if time.monotonic() > end:
        yield None


async def _unlinked(devices: set[int], end: float) -> int | None:
    """Bytes of deleted files on these devices that processes still have open. None: it takes too long."""
    held: dict[tuple[int, int], int] = {}
    async with contextlib.aclosing(_unhurried(_open_files(), end)) as found:
        async for path in found:
            if path is None:
                return None
            with contextlib.suppress(OSError):  # it was closed, or belongs to a process that lets nobody look
                one = os.stat(path)  # noqa: PTH116 - procfs; it follows to the file itself, whatever its name was
                if not one.st_nlink and stat.S_ISREG(one.st_mode) and one.st_dev in devices:
                    held[one.st_dev, one.st_ino] = one.st_blocks * 512
    return sum(held.values())


def _open_files() -> Iterator[str]:
    for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{process}/fd"):  # noqa: PTH208
                yield f"/proc/{process}/fd/{name}"
