"""The worklet relay's journal with a limit, in a directory that no other relay uses at the same time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from worklets.relay.journal import SEGMENT_BYTES, Journal
from worklets.stdiorelay.errors import RelayError

_LEAST_SEGMENT = 1 << 16


class BoundedJournal(Journal):
    """`full` once it holds `limit` bytes. Whole files are let go, so there are eight or more below the limit."""

    def __init__(self, directory: Path, epoch: str, limit: int) -> None:
        super().__init__(directory, epoch, max(_LEAST_SEGMENT, min(SEGMENT_BYTES, limit // 8)))
        self._bytes = limit
        self.at_close: Callable[[], None] = lambda: None

    @property
    def held(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    @property
    def full(self) -> bool:
        return self.held >= self._bytes

    def ack(self, number: int) -> None:
        super().ack(number)
        if self.acked == self.last and self.full:  # one line can be longer than the limit
            self._roll()

    def drop_oldest(self) -> None:
        """Lets go of the oldest file, whoever has not read it."""
        if len(self._segments) == 1:
            self._roll()
        self.ack(self._segments[0].last)

    def close(self) -> None:
        """Nobody can read it later: a new relay process is a new epoch."""
        super().close()
        self.at_close()

    def read(self, number: int, max_bytes: int = 1 << 16, max_lines: int = 1024) -> list[bytes]:
        """As the base's, with one system call for all lines."""
        segment = next((s for s in self._segments if s.first <= number <= s.last), None)
        if segment is None:
            return []
        begin = number - segment.first
        end = begin + 1
        start = segment.offsets[begin]
        most = min(begin + max_lines, len(segment.offsets))
        while end < most and segment.offsets[end] + segment.lengths[end] - start <= max_bytes:
            end += 1
        length = segment.offsets[end - 1] + segment.lengths[end - 1] - start
        data = os.pread(self._reader(segment.path), length, start)
        if len(data) < length:
            raise OSError(f"{segment.path} was cut short")
        places = zip(segment.offsets[begin:end], segment.lengths[begin:end], strict=True)
        return [data[offset - start : offset - start + size] for offset, size in places]


def open_journal(directory: Path | None, epoch: str, limit: int) -> BoundedJournal:
    """A journal in `directory`/relay-journal, or in a temporary directory that `close` removes. Raises RelayError."""
    temporary = Path(tempfile.mkdtemp(prefix="flow-relay-")) if directory is None else None
    place = (temporary or directory or Path()) / "relay-journal"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock is on the directory itself: it keeps cleaners of temporary files away too.
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unusable(place, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal = BoundedJournal(place, epoch, limit)
    except BlockingIOError as error:
        os.close(lock)
        raise RelayError(
            f"Another relay keeps its journal in {place}.", suggestion="Name another directory."
        ) from error
    except OSError as error:
        os.close(lock)
        raise _unusable(place, error) from error
    journal.at_close = lambda: _remove(place, temporary, lock)
    return journal


def _unusable(place: Path, error: OSError) -> RelayError:
    suggestion = "Name a directory with room, and with leave to write, by --journal."
    return RelayError(f"The journal cannot be kept in {place}: {error.strerror}.", suggestion=suggestion)


def _remove(place: Path, temporary: Path | None, lock: int) -> None:
    for file in place.glob("*.log"):
        file.unlink(missing_ok=True)
    os.close(lock)
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
