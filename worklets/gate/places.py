"""The worklets' run directories on the gate's machine, of which an agent may have made anything.

    <root>/<worklet>/     the worklet's /run/worklet
    <root>/.drafts/       where files are written before they are put into one

A worklet sees its own directory only, so names above it are ours. Below it nothing is followed. All of this blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

_NAME = re.compile(r"[a-z0-9-]{1,40}")
_PART = re.compile(r"[A-Za-z0-9._-]{1,120}")
_DEPTH = 3
_MOST_LISTED = 10_000  # names of a directory that are looked at
_MOST_GONE = 100  # that are deleted at one start
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOVING = 60.0  # seconds of a request: Flow waits for 90
#: What a predecessor left and its successor must not take for its own.
_OF_ONE_LIFE = ("spec.json", "relay.sock", "inside.sock", "startup.ended")


class Unfit(Exception):
    """What was asked cannot be: the reason, for Flow."""


class Places:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._drafts = root / ".drafts"
        for path in (root, self._drafts):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in self._drafts.iterdir():  # of a gate that was killed
            draft.unlink()

    def prepare(self, worklet: str, spec: bytes) -> None:
        """The directory of a worklet that is about to start. Raises OSError, Unfit."""
        place = self._root / _checked(worklet)
        place.mkdir(mode=0o700, exist_ok=True)
        _delete(*_gone(place))
        for name in _OF_ONE_LIFE:
            self.clear(worklet, [name])
        journal = place / "journal"
        if journal.is_symlink() or not journal.is_dir() or not _is_journal(journal):
            self.clear(worklet, ["journal"])  # no relay could go on with that
        self.put(worklet, ["spec.json"], spec)

    def put(self, worklet: str, path: Sequence[str], content: bytes) -> None:
        """A file that only the agent may read, whole or not at all, in place of what stands there."""
        draft = self._drafts / secrets.token_hex(16)
        draft.write_bytes(content)
        try:
            draft.chmod(0o600)
            with self._above(worklet, path) as (directory, name):
                try:
                    os.rename(draft, name, dst_dir_fd=directory)
                except (IsADirectoryError, PermissionError):
                    self.clear(worklet, path)
                    os.rename(draft, name, dst_dir_fd=directory)
        finally:
            draft.unlink(missing_ok=True)

    def clear(self, worklet: str, path: Sequence[str]) -> None:
        """Takes away whatever stands there; a directory is deleted when the worklet starts next."""
        with contextlib.suppress(FileNotFoundError), self._above(worklet, path) as (directory, name):
            try:
                os.unlink(name, dir_fd=directory)
            except (IsADirectoryError, PermissionError):
                os.rename(name, f".gone-{secrets.token_hex(8)}", src_dir_fd=directory, dst_dir_fd=directory)

    def place(self, worklet: str, path: Sequence[str]) -> tuple[int, int] | None:
        """Device and inode of what stands there: tells a file from a later one of its name. Raises Unfit."""
        try:
            with self._above(worklet, path) as (directory, name):
                found = os.lstat(name, dir_fd=directory)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def open(self, worklet: str, path: Sequence[str]) -> BinaryIO:
        """A plain file, to be read: to open a pipe would wait for its writer. Raises OSError, Unfit."""
        with self._above(worklet, path) as (directory, name):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        file = os.fdopen(handle, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            file.close()
            raise FileNotFoundError(name)
        return file

    def size(self, worklet: str, path: Sequence[str]) -> int:
        """Of a plain file, in bytes. Raises OSError, Unfit."""
        with self._above(worklet, path) as (directory, name):
            found = os.lstat(name, dir_fd=directory)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(name)
        return found.st_size

    def listed(self, worklet: str, path: Sequence[str], most: int) -> list[str]:
        """The names of at most so many plain files in a directory, sorted. Raises OSError, Unfit."""
        with self._above(worklet, [*path, "."]) as (directory, _), os.scandir(directory) as found:
            plain = [one.name for one in islice(found, _MOST_LISTED) if one.is_file(follow_symlinks=False)]
        return sorted(name for name in plain if _PART.fullmatch(name))[:most]

    def remove(self, worklet: str) -> None:
        """With all that is in it. Raises OSError."""
        _delete(self._root / _checked(worklet))

    def listen(self, worklet: str, name: str) -> socket.socket:
        """A listening socket in the worklet's directory. Raises OSError, Unfit."""
        self.clear(worklet, [name])
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._above(worklet, [name]) as (directory, _):
                made.bind(f"/proc/self/fd/{directory}/{name}")
            made.listen(64)
            made.setblocking(False)
        except BaseException:
            made.close()
            raise
        return made

    @contextmanager
    def socket_at(self, worklet: str, name: str) -> Iterator[str]:
        """A path to connect to, while the context lasts. Raises OSError: no link is followed to another worklet's."""
        with self._above(worklet, [name]) as (directory, last):
            handle = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not stat.S_ISSOCK(os.fstat(handle).st_mode):
                raise FileNotFoundError(name)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)

    @contextmanager
    def _above(self, worklet: str, path: Sequence[str]) -> Iterator[tuple[int, str]]:
        """The open directory in which the path's last name is, and that name. Raises OSError, Unfit."""
        if not 0 < len(path) <= _DEPTH or not all(
            isinstance(part, str) and _PART.fullmatch(part) and part != ".." for part in path
        ):
            raise Unfit("that path cannot be")
        directory = os.open(self._root / _checked(worklet), _DIRECTORY)
        try:
            for part in path[:-1]:
                below = os.open(part, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = below
            yield directory, path[-1]
        finally:
            os.close(directory)


def _checked(worklet: object) -> str:
    if not isinstance(worklet, str) or not _NAME.fullmatch(worklet):
        raise Unfit("that is no worklet's name")
    return worklet


def _gone(place: Path) -> list[Path]:
    """What `clear` has left to delete; what is beyond the bounds stays for a later start. Raises OSError."""
    with os.scandir(place) as found:
        names = (one.name for one in islice(found, _MOST_LISTED) if one.name.startswith(".gone-"))
        return [place / name for name in islice(names, _MOST_GONE)]


def _is_journal(path: Path) -> bool:
    """Nothing that a relay could not go on with: a directory in a file's place, or names without end."""
    with os.scandir(path) as found:
        looked_at = islice(found, _MOST_LISTED)
        fit = not any(one.name.endswith(".log") and one.is_dir() for one in looked_at)
        return fit and next(found, None) is None


def _delete(*paths: Path) -> None:
    """By programs that go down as deep as directories go. Raises OSError.

    Of directories the agent may have taken its own rights away, which are ours.
    """
    left, end, null = list(paths), time.monotonic() + _REMOVING, subprocess.DEVNULL
    for words in (["/bin/rm", "-rf"], ["/bin/chmod", "-R", "u+rwx"], ["/bin/rm", "-rf"]):
        if not (left := [path for path in left if os.path.lexists(path)]):
            return
        seconds = max(0.0, end - time.monotonic())
        try:
            subprocess.run([*words, "--", *left], stdin=null, stdout=null, stderr=null, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as late:
            raise TimeoutError(f"{left[0]} takes too long to delete") from late
    if stays := [path for path in left if os.path.lexists(path)]:
        raise PermissionError(f"not everything in {stays[0]} could be deleted")
