"""Files that cross the border of a worklet: into its workspace, and out of it by way of its run directory.

Both sides of the border may be the agent's to write: nothing there is followed, and nothing is trusted to stay as it
was when it was looked at.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from config.text import well_formed
from worklets import rundir
from worklets.rundir import AGENT_UID

#: The tools of the MCP server in worklets/image/flowtools.py, as the CLI names them.
SEND_FILE = "mcp__flow__send_file"
OPEN_PREVIEW = "mcp__flow__open_preview"
OUTGOING = "outgoing"  # in the run directory
META_BYTES = 64 * 1024
HAND_OVER = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TEXT = 1_000  # characters of a title or comment


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A file that the agent wants shown. `size` in bytes; `name` has no directory in it."""

    name: str
    size: int
    title: str = ""
    comment: str = ""


# ---- in ----------------------------------------------------------------------------------------------------------


def place(workspace: Path, files: Mapping[str, Path]) -> None:
    """Copies each file to its path in the workspace, `<directory>/<name>`. Raises OSError.

    A link in the directory's place is taken away; one in the file's place is replaced.
    """
    for path, source in files.items():
        folder, name = PurePosixPath(path).parts
        with _opened(workspace, folder) as directory, source.open("rb") as content:
            draft = f".flow-{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(draft, flags, 0o644, dir_fd=directory), "wb") as copy:
                shutil.copyfileobj(content, copy)
            os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)


@contextmanager
def _opened(workspace: Path, folder: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    workspace.mkdir(parents=True, exist_ok=True)
    above = os.open(workspace, flags)
    try:
        try:
            directory = os.open(folder, flags, dir_fd=above)
        except OSError:
            rundir.clear(workspace / folder)
            os.mkdir(folder, dir_fd=above)
            directory = os.open(folder, flags, dir_fd=above)
        try:
            yield directory
        finally:
            os.close(directory)
    finally:
        os.close(above)


def pack(files: Mapping[str, Path], into: IO[bytes]) -> None:
    """The same as a tar archive, owned by the agent, for an engine that unpacks it inside the container."""
    with tarfile.open(fileobj=into, mode="w|") as tar:
        for folder in sorted({str(PurePosixPath(path).parent) for path in files}):
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, AGENT_UID, AGENT_UID
            tar.addfile(info)
        for path, source in files.items():
            with source.open("rb") as content:
                info = tar.gettarinfo(arcname=path, fileobj=content)
                info.mode, info.uid, info.gid, info.uname, info.gname = 0o644, AGENT_UID, AGENT_UID, "", ""
                tar.addfile(info, content)
    into.seek(0)


# ---- out ---------------------------------------------------------------------------------------------------------


class Outgoing:
    """What a worklet's agent has handed over with `send_file`; `name` is the tool use's id."""

    def __init__(self, run_dir: Path) -> None:
        self._directory = run_dir / OUTGOING

    def look(self, name: str) -> HandedOver | None:
        """None: nothing of that name is there, or nothing that the MCP server could have left."""
        with suppress(OSError, ValueError):
            with self._open(name, "meta.json") as file:
                meta = json.loads(file.read(META_BYTES))
            with self._open(name, "content") as file:
                size = os.fstat(file.fileno()).st_size
            return handed_over(meta, size)
        return None

    def read(self, name: str, limit: int) -> bytes:
        """The content, of at most `limit` bytes. Raises OSError, ValueError when it is longer."""
        with self._open(name, "content") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError("the file is too large")
        return content

    def reply(self, name: str, error: str | None) -> None:
        """Tells the waiting tool how it went, and takes the content away. Raises OSError."""
        with self._entered(name) as directory:
            draft = f".reply-{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(draft, flags, 0o644, dir_fd=directory), "w", encoding="utf-8") as file:
                json.dump({"error": error}, file)
            os.rename(draft, "reply.json", src_dir_fd=directory, dst_dir_fd=directory)
            with suppress(FileNotFoundError):
                os.unlink("content", dir_fd=directory)

    @contextmanager
    def _entered(self, name: str) -> Iterator[int]:
        if not HAND_OVER.fullmatch(name):
            raise FileNotFoundError(name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        above = os.open(self._directory, flags)
        try:
            directory = os.open(name, flags, dir_fd=above)
        finally:
            os.close(above)
        try:
            yield directory
        finally:
            os.close(directory)

    @contextmanager
    def _open(self, name: str, file: str) -> Iterator[IO[bytes]]:
        """A regular file only: to open a pipe would wait for its writer."""
        with self._entered(name) as directory:
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
            with os.fdopen(handle, "rb") as opened:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise FileNotFoundError(file)
                yield opened


def handed_over(meta: Any, size: int) -> HandedOver | None:
    if not isinstance(meta, dict):
        return None
    name, title, comment = (
        well_formed(value)[:_TEXT] if isinstance(value := meta.get(key), str) else ""
        for key in ("name", "title", "comment")
    )
    name = PurePosixPath(name).name[:255]
    return HandedOver(name, size, title, comment) if name and size else None
