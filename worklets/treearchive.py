"""A directory as an archive that the engine unpacks into a new volume, bounded whatever lies in it."""

from __future__ import annotations

import errno
import os
import tarfile
from pathlib import Path
from typing import IO

from config.units import format_size
from worklets.errors import WorkletError

MOST_ENTRIES = 2_000_000  # files, directories and links: Chromium has half a million
MOST_BYTES = 64 << 30  # where nothing else bounds a worklet's disk
_BLOCK = 512  # bytes: a tar archive's, of which each entry has one for itself (pax, POSIX.1-2001)


class TooMuchToPack(WorkletError):
    """The directory is larger than a worklet's volume may begin with, or deeper than it can be read."""

    suggestion = "Begin at a branch with less in it."


def pack_tree(
    source: Path, into: IO[bytes], owner: int, *, most_bytes: int = 0, most_entries: int = MOST_ENTRIES
) -> None:
    """The directory's content as workspace/…, owned by that user; then `into` is at its beginning.

    Device files and the like are left out; links stay links. `most_bytes` of the archive; 0: MOST_BYTES. Raises
    TooMuchToPack before there is more of it, in memory too, OSError.
    """
    try:
        _pack(source, into, owner, most_bytes, most_entries)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise TooMuchToPack("The repository has a path that is longer than Linux can open.") from error
    into.seek(0, os.SEEK_SET)


def _pack(source: Path, into: IO[bytes], owner: int, most_bytes: int, most_entries: int) -> None:
    most, entries = most_bytes or MOST_BYTES, 0
    with tarfile.open(fileobj=into, mode="w|") as tar:
        waiting = [(str(source), "workspace")]  # no recursion: a repository may be deeper than Python's stack
        while waiting:
            path, name = waiting.pop()
            info = tar.gettarinfo(path, name)
            if info is None or not (info.isfile() or info.isdir() or info.issym() or info.islnk()):
                continue
            entries += 1
            if tar.offset + _BLOCK + info.size > most:
                raise _too_large(most, is_disk=bool(most_bytes))
            _give(info, owner)
            if info.isreg():
                with open(path, "rb", opener=_opened) as file:
                    tar.addfile(info, file)
                continue
            tar.addfile(info)
            if info.isdir():
                with os.scandir(path) as found:
                    for one in found:
                        waiting.append((one.path, f"{name}/{one.name}"))
                        if entries + len(waiting) > most_entries:
                            raise TooMuchToPack(
                                f"The repository has more than {most_entries:,} files, which is all that a workspace "
                                "begins with.",
                                suggestion="Begin at a branch with fewer files in it.",
                            )


def _too_large(most: int, *, is_disk: bool) -> TooMuchToPack:
    what, how = ("the disk of a worklet", "raise") if is_disk else ("all that a workspace begins with", "set")
    return TooMuchToPack(
        f"The repository's files take more than {format_size(most)}, which is {what}.",
        suggestion=f"Begin at a branch with less in it, or {how} FLOW_WORKLET_DISK.",
    )


def _give(info: tarfile.TarInfo, owner: int) -> None:
    info.uid = info.gid = owner
    info.uname = info.gname = ""
    info.mode |= 0o700 if info.isdir() else 0o400


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
