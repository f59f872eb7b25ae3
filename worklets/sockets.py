"""Unix sockets in directories of any depth, safely.

`sun_path` holds 108 bytes (unix(7)), and a data directory can lie deeper than that. Linux offers a short
name for anything that is open: /proc/self/fd/<n>.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worklets.rundir import clear

_PROC = Path("/proc/self/fd")


@contextmanager
def short_path(directory: Path, name: str) -> Iterator[str]:
    """A path of a few bytes for the socket `name` in `directory`, to connect to while the context lasts.

    A worklet can write in its directory, so the name is never followed elsewhere: a symbolic link or another
    kind of file raises OSError (ELOOP, ENOTSOCK), a missing socket FileNotFoundError.
    """
    handle = os.open(directory / name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "a symbolic link stands where the socket should be", str(directory / name))
        if not stat.S_ISSOCK(mode):
            raise OSError(errno.ENOTSOCK, "not a socket", str(directory / name))
        yield str(_PROC / str(handle))
    finally:
        os.close(handle)


def listen(directory: Path, name: str, backlog: int = 64, mode: int = 0o666) -> socket.socket:
    """A listening socket `name` in `directory`, in place of whatever a dead process left there.

    The usual mode is 0666 because the worklet has another user id; the directory above keeps other users out.
    """
    clear(directory / name)
    handle = os.open(directory, os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(_PROC / str(handle) / name))
        with short_path(directory, name) as path:
            Path(path).chmod(mode)
        made.listen(backlog)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    finally:
        os.close(handle)
    return made


async def serving(made: asyncio.Server) -> asyncio.Server:
    """One that was made with `start_serving=False` serves now; whoever is cancelled meanwhile has closed it.

    Made in one step it would be nobody's then, and the loop would go on looking at its socket, also when that is
    closed: a later file with the same number is never heard of.
    """
    try:
        await made.start_serving()
    except BaseException:
        made.close()
        raise
    return made


def place(directory: Path, name: str) -> tuple[int, int] | None:
    """Device and inode of what stands at that name, None when nothing does: tells a socket from a later one."""
    try:
        found = (directory / name).lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
