"""What the local runtime tells of its processes: nobody does it for us, so they are looked at."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import structlog

from worklets.news import News, Tell
from worklets.runtime import Worklet

log = structlog.get_logger(__name__)

_LOOK = 1.0  # seconds
_CHUNK = 1 << 16
_TAIL = 1 << 20  # bytes of a log that are looked through for its last lines


async def watch(worklets: Callable[[], Awaitable[Iterable[Worklet]]], tell: Tell, pause: float = _LOOK) -> None:
    """Tells of worklets that have ended since the last look, once of each, until cancelled."""
    ran, told = set[tuple[str, str]](), set[tuple[str, str]]()
    while True:
        try:
            found = {(worklet.name, worklet.id): worklet.running for worklet in await worklets()}
        except OSError as error:  # the data directory may be away for a moment
            log.debug("processes of worklets could not be looked at", error=str(error))
        else:
            ended = {one for one, running in found.items() if not running}
            for name, _ in sorted((ran - found.keys()) | (ended - told)):
                tell(News("exit", name))
            ran, told = found.keys() - ended, ended
        await asyncio.sleep(pause)


def last_lines(path: Path, lines: int) -> tuple[bytes, int]:
    """The last lines of a file, and its length then. Raises OSError."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL))
        text = file.read(end - file.tell())
    parts = text.splitlines(keepends=True)
    return b"".join(parts[-lines:] if lines else []), end


def hand_on(path: Path, offset: int, hand: Callable[[bytes], None]) -> int:
    """What came after `offset`, or all of a file begun anew, in pieces; the offset after it. Raises OSError."""
    with path.open("rb") as file:
        file.seek(offset if file.seek(0, os.SEEK_END) >= offset else 0)
        while chunk := file.read(_CHUNK):
            hand(chunk)
        return file.tell()
