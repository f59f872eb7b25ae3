"""`flow kv export` and `import`: a worklet's entries as JSON Lines, streamed.

One entry a line: {"namespace", "key", "value", "expires_at": ISO 8601 | null}. Import takes the lines of
`flow kv list --json --values` as well; what it needs is a key and a value.
An export reads page by page while others may write: each entry is as it was when its page was read.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bot.kvtables import counted
from config.errors import FlowError
from kvstore.gateway import jsontext
from kvstore.gateway.arguments import MAX_TTL_SECONDS, entries_text
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated

if TYPE_CHECKING:
    from types import TracebackType

    from bot.kvstores import Shelf

_LONGEST_LINE = 16 * 1024**2  # bytes: a value of 1 MiB with every character escaped has 6 MiB
_BATCH_LINES, _BATCH_BYTES = 1000, 4 * 1024**2
_LONGEST_TTL = timedelta(seconds=MAX_TTL_SECONDS)
_KNOWN = {"namespace", "key", "value", "expires_at", "version", "created_at", "updated_at"}


class TransferFailed(FlowError):
    """The entries could not be copied."""


class _Progress:
    """One moving line on stderr, where that is a terminal."""

    def __init__(self, text: str) -> None:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        self._text, self._status = text, console.status(text) if console.is_terminal else None

    def __enter__(self) -> _Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, count: int) -> None:
        if self._status is not None:
            self._status.update(f"{self._text}: {counted(count)}")


# ---- out ----


async def export(shelf: Shelf, namespace: str | None, output: Path | None, *, resume: bool) -> int:
    """Writes all entries; how many there are in the end. Into a file: it appears once it is complete.

    Raises Refusal, TransferFailed.
    """
    if output is None:
        return await _copy(shelf, namespace, sys.stdout.buffer, None, 0, "it is not complete")
    what = [shelf.worklet_id] if namespace is None else [shelf.worklet_id, sha256(namespace.encode()).hexdigest()[:8]]
    part = output.with_name(".".join([output.name, *what, "part"]))  # of this very selection: it may be resumed
    try:
        lines, last, file = await asyncio.to_thread(_open_part, part, resume)
        try:
            if lines:
                print(f"flow: going on after {counted(lines)} of an earlier export", file=sys.stderr)
            count = await _copy(shelf, namespace, file, last, lines, "go on with --resume")
            await asyncio.to_thread(_finish, file, part, output)
        finally:
            file.close()
    except OSError as e:
        raise TransferFailed(
            f"{output} cannot be written: {e.strerror}.", suggestion="With room for it, go on with --resume."
        ) from e
    print(f"flow: wrote {counted(count)} to {output}", file=sys.stderr)
    return count


async def _copy(
    shelf: Shelf, namespace: str | None, file: BinaryIO, after: tuple[str, str] | None, count: int, advice: str
) -> int:
    """`advice`: what to do where somebody breaks it off."""
    try:
        with _Progress("exporting") as progress:
            async for page in shelf.pages(namespace, values=True, after=after):
                await asyncio.to_thread(_write, file, page)
                count += len(page)
                progress.show(count)
    except asyncio.CancelledError:
        _broken_off(count, advice)
        raise
    return count


def _broken_off(count: int, advice: str) -> None:
    print(f"flow: broken off after {counted(count)}; {advice}", file=sys.stderr)


def _write(file: BinaryIO, page: list[dict[str, Any]]) -> None:
    for entry in page:
        line = {name: entry[name] for name in ("namespace", "key", "value", "expires_at")}
        file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    file.flush()


def _open_part(part: Path, resume: bool) -> tuple[int, tuple[str, str] | None, BinaryIO]:
    """How many whole lines are there, where the last of them was, and the file, open behind it."""
    # What a worklet keeps is for its people only.
    file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise TransferFailed("Another export to this file is under way.", suggestion="Let it end first.") from None
    count, end, last = 0, 0, None
    if resume:
        for line in file:
            if not line.endswith(b"\n"):
                break
            count, end, last = count + 1, end + len(line), line
    file.seek(end)
    file.truncate()
    if last is None:
        return 0, None, file
    entry = json.loads(last)
    return count, (entry["namespace"], entry["key"]), file


def _finish(file: BinaryIO, part: Path, output: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.replace(output)


# ---- in ----


@dataclass
class Done:
    written: int = 0
    expired: int = 0  # left out: their time was over


@dataclass
class _Batch:
    """Lines that go into the store at once: one namespace, and one way of writing."""

    namespace: str
    has_ttl: bool
    entries: dict[str, tuple[str, datetime | None]] = field(default_factory=dict)  # key → value as JSON, its end
    first: int = 0  # line numbers
    last: int = 0
    size: int = 0

    def takes(self, line: _Line) -> bool:
        return (
            (line.namespace, line.expires_at is not None) == (self.namespace, self.has_ttl)
            and self.last - self.first < _BATCH_LINES - 1
            and self.size + len(line.value) < _BATCH_BYTES
        )

    def add(self, line: _Line) -> None:
        self.entries.pop(line.key, None)  # the later line counts
        self.entries[line.key] = line.value, line.expires_at
        self.first, self.last = self.first or line.number, line.number
        self.size += len(line.value)


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    namespace: str
    key: str
    value: str  # compact JSON
    expires_at: datetime | None


async def check(file: str, from_line: int, namespace: str | None) -> int:
    """How many lines there are, each of them right. Raises TransferFailed about the first one that is not."""
    count = 0
    try:
        async for _ in _lines(file, from_line, namespace):
            count += 1
    except _WrongLine as e:
        raise TransferFailed(f"{e}; nothing was written.") from e
    return count


async def read_in(shelf: Shelf, file: str, from_line: int, namespace: str | None) -> Done:
    """Writes what the lines say, in their order. `namespace`: into that one, whatever they say.

    Raises TransferFailed: it says which line is wrong or was refused, and how many entries were written.
    """
    done = Done()
    try:
        await _read_in(shelf, file, from_line, namespace, done)
    except asyncio.CancelledError:
        _broken_off(done.written, "repeat it, nothing is stored twice")
        raise
    return done


async def _read_in(shelf: Shelf, file: str, from_line: int, namespace: str | None, done: Done) -> None:
    batch = None
    with _Progress("importing") as progress:
        try:
            async for line in _lines(file, from_line, namespace):
                if batch is not None and not batch.takes(line):
                    await _store(shelf, batch, done)
                    progress.show(done.written)
                    batch = None
                batch = batch or _Batch(line.namespace, line.expires_at is not None)
                batch.add(line)
        except _WrongLine as e:
            if batch is not None:
                await _store(shelf, batch, done)
            raise TransferFailed(
                f"{e}; the lines before it were written ({counted(done.written)}), it and what follows were not.",
                suggestion=f"Correct it, and go on with --from-line {e.number}.",
            ) from e
        if batch is not None:
            await _store(shelf, batch, done)


async def _store(shelf: Shelf, batch: _Batch, done: Done) -> None:
    now = datetime.now(UTC)
    try:
        if not batch.has_ttl:
            pairs = [(key, value) for key, (value, _) in batch.entries.items()]
            await shelf.call("kv_mset", p_namespace=batch.namespace, p_entries=entries_text(pairs))
            done.written += len(pairs)
            return
        steps = []
        for key, (value, ends) in batch.entries.items():
            if ends is not None and (ttl := (ends - now).total_seconds()) > 0:
                head = json.dumps({"op": "set", "namespace": batch.namespace, "key": key, "ttl": ttl})
                steps.append(f'{head[:-1]},"value":{value}}}')
        if steps:
            await shelf.call("kv_transaction", p_operations=f"[{','.join(steps)}]")
        done.written, done.expired = done.written + len(steps), done.expired + len(batch.entries) - len(steps)
    except Refusal as refusal:
        several = batch.last > batch.first
        lines = f"Lines {batch.first} to {batch.last} were" if several else f"Line {batch.first} was"
        them = "them" if several else "it"
        raise TransferFailed(
            f"{lines} refused, nothing of {them} or after {them} was written: {refusal.message} "
            f"Written before: {counted(done.written)}.",
            suggestion=f"When that is put right, go on with --from-line {batch.first}.",
        ) from refusal


class _WrongLine(Exception):
    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"Line {number} is wrong: {why.rstrip('.')}")
        self.number = number


async def _lines(file: str, from_line: int, namespace: str | None) -> Any:
    """Yields _Line. Raises _WrongLine, TransferFailed."""
    try:
        source = sys.stdin.buffer if file == "-" else await asyncio.to_thread(open, file, "rb")
        try:
            numbers = _numbered(source)
            last = 0
            while batch := await asyncio.to_thread(_some, numbers):
                for number, text in batch:
                    if number >= from_line and text.strip():
                        yield _parsed(number, text, namespace)
                last = batch[-1][0]
            if last < from_line and from_line > 1:
                have = f"{last:,} line{'' if last == 1 else 's'}"
                raise TransferFailed(f"{file} has {have}: there is nothing from line {from_line:,} on.")
        finally:
            if file != "-":
                source.close()
    except OSError as e:
        raise TransferFailed(f"{file} cannot be read: {e.strerror}.") from e


def _numbered(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := source.readline(_LONGEST_LINE + 1):
        number += 1
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _some(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        found.append((number, line))
        size += len(line)
        if len(found) == _BATCH_LINES or size > _BATCH_BYTES:
            break
    return found


def _parsed(number: int, text: bytes, namespace: str | None) -> _Line:
    if len(text) > _LONGEST_LINE:
        raise _WrongLine(number, f"it has more than {_LONGEST_LINE} bytes")
    try:
        entry = jsontext.parse(text)
        if not isinstance(entry, dict) or not {"key", "value"} <= entry.keys() <= _KNOWN:
            raise _WrongLine(number, 'it must be {"namespace": …, "key": …, "value": …, "expires_at": …}')
        where = entry.get("namespace", "default") if namespace is None else namespace
        value = jsontext.compact(entry["value"])
        expires_at = _time(number, entry.get("expires_at"))
        checked = validated("kv_get", {"p_namespace": where, "p_key": entry["key"]})
    except Refusal as refusal:
        raise _WrongLine(number, refusal.message.replace("p_", "")) from refusal
    return _Line(number, checked["p_namespace"], checked["p_key"], value, expires_at)


def _time(number: int, given: object) -> datetime | None:
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise _WrongLine(number, "expires_at must be a time with its offset, like 2026-01-31T12:00:00+00:00")
    if at - datetime.now(UTC) > _LONGEST_TTL:
        raise _WrongLine(number, "expires_at is more than ten years ahead")
    return at
