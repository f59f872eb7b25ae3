"""A transcript as a file: gzip-compressed JSON lines, complete or not there.

The first line is the session, then come its turns, then events and asides. Written anew it keeps the events that an
earlier writing had and that are not in the database any more.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from config.logging import get_logger
from config.text import well_formed
from sessions.types import Session

log = get_logger(__name__)

Line = Mapping[str, Any]


def archive_path(directory: Path, session: Session) -> Path:
    """By the year in which the session began, so that it is found again."""
    return directory / f"{session.created_at:%Y}" / f"{session.id}.jsonl.gz"


class ArchiveWriter:
    """Blocks: to be called in a thread. All raise OSError; nothing is there before `commit`."""

    def __init__(self, path: Path, first: int, asides: Collection[str]) -> None:
        """What is still in the database: `first` is the cursor of its oldest event, `asides` their source ids."""
        self._path = path
        self._first = first
        self._asides = asides
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.fdopen(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._zip = gzip.GzipFile(filename="", mode="wb", fileobj=self._file)

    def begin(self, head: Sequence[Line]) -> None:
        """Session and turns; then what an earlier writing had and the database has not any more."""
        self.add(head)
        if not self._path.exists():
            return
        try:
            self.add([line for line in read_archive(self._path) if self._is_gone(line)])
        except (EOFError, gzip.BadGzipFile, zlib.error, ValueError):
            aside = self._path.with_name(f"{self._path.name}.damaged")
            log.warning("an archived transcript is damaged; it is put aside", file=str(aside))
            self._path.replace(aside)

    def _is_gone(self, line: Line) -> bool:
        if "event" in line:
            return bool(line["cursor"] < self._first)
        return "aside" in line and line["aside"]["source_id"] not in self._asides

    def add(self, lines: Sequence[Line]) -> None:
        for line in lines:
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=_plain)
            self._zip.write(f"{well_formed(text)}\n".encode())

    def commit(self) -> None:
        """It is on the disk when this returns."""
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def abort(self) -> None:
        # Closing the zip would write; the disk may be full.
        self._file.close()
        self._partial.unlink(missing_ok=True)


def read_archive(path: Path) -> Iterator[Line]:
    """Every line of it. Raises OSError, EOFError for a file that is damaged."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _plain(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
