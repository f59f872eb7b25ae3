"""The relay's journal: every line that the CLI says or is told, in files, until the app has stored it.

A record is one line of a file: a kind, a number, the content.

    o 17 {"type":"assistant",…}       the 17th line that the CLI wrote
    i 5f0c… {"type":"user",…}         an input line, under the id that the app gave it
    x 18 {"code":0,"stderr":""}       the process ended; always the last numbered record

Numbers count from 1 within one epoch (one relay process). A file is named `<epoch>-<first number>.log`; a
full one is closed and, once the app has acknowledged all of it, deleted. Only offsets are kept in memory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path

SEGMENT_BYTES = 4 << 20
LONGEST_LINE = (64 << 20) + 64  # bytes; a CLI line holds images, but never more
_RECORD = 256  # bytes of memory that a record costs whoever keeps it, however short
MOST_READ = 128 << 20  # bytes that dead relays may have left unread


class _Segment:
    """One file, and where in it each numbered record's content lies."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        self.offsets = array("Q")
        self.lengths = array("Q")
        self.size = 0

    @property
    def last(self) -> int:
        return self.first + len(self.offsets) - 1


class Journal:
    """Appends and reads back. Raises OSError when the disk refuses; nothing is half written then."""

    def __init__(self, directory: Path, epoch: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.epoch = epoch
        self.acked = 0
        self._directory = directory
        self._limit = segment_bytes
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("*.log"):  # of earlier processes: the app reads those before it starts a new one
            old.unlink()
        self._segments: list[_Segment] = []
        self._reading: tuple[Path, int] | None = None
        self._open(1)

    @property
    def first(self) -> int:
        """The lowest number still held (one more than `last` when none is)."""
        return self._segments[0].first

    @property
    def last(self) -> int:
        return self._segments[-1].last

    def append(self, lines: list[bytes], kind: bytes = b"o") -> int:
        """Numbers and writes the lines; the last one's number."""
        if self._segments[-1].size >= self._limit:
            self._roll()
        segment = self._segments[-1]
        number, size = segment.last, segment.size
        offsets, parts = array("Q"), list[bytes]()
        for line in lines:
            number += 1
            head = b"%s %d " % (kind, number)
            offsets.append(size + len(head))
            parts += (head, line, b"\n")
            size += len(head) + len(line) + 1
        self._write(b"".join(parts))
        segment.offsets += offsets
        segment.lengths += array("Q", map(len, lines))
        return number

    def note_input(self, key: str, line: bytes) -> None:
        """Records an input line; it has no number."""
        self._write(b"i %s %s\n" % (key.encode(), line))

    def read(self, number: int, max_bytes: int = 1 << 16, max_lines: int = 256) -> list[bytes]:
        """Lines from `number` on; at least one if there is any, however long."""
        segment = next((s for s in self._segments if s.first <= number <= s.last), None)
        if segment is None:
            return []
        fd, lines, total = self._reader(segment.path), list[bytes](), 0
        for i in range(number - segment.first, min(number - segment.first + max_lines, len(segment.offsets))):
            total += segment.lengths[i]
            if lines and total > max_bytes:
                break
            lines.append(os.pread(fd, segment.lengths[i], segment.offsets[i]))
        return lines

    def ack(self, number: int) -> None:
        """The app has stored everything up to `number`."""
        self.acked = max(self.acked, min(number, self.last))
        while len(self._segments) > 1 and self._segments[0].last <= self.acked:
            self._segments.pop(0).path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)
        if self._reading:
            os.close(self._reading[1])
            self._reading = None

    def _open(self, first: int) -> None:
        path = self._directory / f"{self.epoch}-{first:012d}.log"
        path.unlink(missing_ok=True)  # the agent can put a pipe there, say, at which we would wait for ever
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._segments.append(_Segment(path, first))

    def _roll(self) -> None:
        old = self._fd
        self._open(self.last + 1)
        os.close(old)
        self.ack(self.acked)

    def _write(self, data: bytes) -> None:
        segment = self._segments[-1]
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, segment.size)
            raise
        segment.size += len(data)

    def _reader(self, path: Path) -> int:
        if self._reading is None or self._reading[0] != path:
            if self._reading is not None:
                os.close(self._reading[1])
            self._reading = (path, os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
        return self._reading[1]


class Budget:
    """Bytes that may still be read of journals. Not a dataclass: importing those would hold up the relay's start."""

    def __init__(self, left: int = MOST_READ) -> None:
        self.left = left


def records(directory: Path, epoch: str, after: int, budget: Budget | None = None) -> Iterator[tuple[str, int, bytes]]:
    """`(kind, number, content)` of the numbered records after `after`, read from another process.

    For the app, when the relay is gone. A last line cut short by a crash is left out. The agent can write in
    this directory: a symbolic link is not followed (OSError), a line that is no record is passed over, and of a
    journal that is larger than the budget only the beginning is read.
    """
    folder = os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW)
    budget = budget or Budget()
    try:
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - by descriptor, so that no link is followed
            if not (name.startswith(f"{epoch}-") and name.endswith(".log")):
                continue
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            with open(handle, "rb") as file:  # noqa: PTH123
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    continue
                while line := file.readline(min(budget.left, LONGEST_LINE)):
                    budget.left -= len(line)
                    kind, _, rest = line.partition(b" ")
                    number, _, content = rest.partition(b" ")
                    known = kind in (b"o", b"x") and line.endswith(b"\n") and number.isdigit() and len(number) < 19
                    if known and int(number) > after:
                        budget.left = max(0, budget.left - _RECORD)
                        yield kind.decode(), int(number), content[:-1]
            if budget.left <= 0:
                return
    finally:
        os.close(folder)
