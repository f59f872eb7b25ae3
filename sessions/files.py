"""What people attached to a message, brought into the workspace before Claude is asked.

Each step may be cut off and done again: where a file is to lie is stored before it is put there, and what was refused
stays refused. A file that cannot be had costs the turn nothing but the file; people and Claude are told.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from config.errors import FlowError
from config.logging import get_logger
from config.units import format_size
from sessions.filerules import FileRefused
from sessions.filestore import Attachment
from sessions.link import Link
from sessions.shared import Shared
from sessions.types import Attached, Turn
from worklets.errors import AgentGone, RuntimeUnavailable, WorkletError
from worklets.events import Remark
from worklets.pictures import Picture, picture

log = get_logger(__name__)

FOLDER = "attachments"  # in the workspace
_NAME = 80  # characters
_PICTURES = 15_000_000  # bytes of all of a message: the API takes requests of 32 MB


@dataclass(frozen=True, slots=True)
class Brought:
    """What Claude is told of the files, before the prompt."""

    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()


async def bring(shared: Shared, link: Link, turn: Turn, tell: Callable[[Remark], None]) -> Brought:
    """The turn's files are in the workspace then, but for those that were refused. Harmless when repeated.

    `tell` is given what people should know. Raises AgentGone, RuntimeUnavailable: the worklet is lost.
    """
    store = shared.store.files
    attached = await shared.stored(lambda: store.of_turn(turn.id))
    if not attached:
        return Brought()
    staging = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="flow-files-"))
    try:
        return await _Bringing(shared, link, turn, tell, staging).run(attached)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True))


class _Bringing:
    def __init__(self, shared: Shared, link: Link, turn: Turn, tell: Callable[[Remark], None], staging: Path) -> None:
        self._shared, self._link, self._turn = shared, link, turn
        self._tell, self._staging = tell, staging
        self._known: dict[str, str] = {}  # where files lie, or will: path → id of the file
        self._refused: list[str] = []
        self._placed: list[str] = []
        self._pictures: list[Picture] = []

    async def run(self, attached: Sequence[Attachment]) -> Brought:
        wanted = [one for one in attached if not await self._is_refused(one)]
        store, session_id = self._shared.store.files, self._link.session.id
        self._known = await self._shared.stored(lambda: store.paths(session_id))
        for attachment in wanted:
            await self._bring(attachment)
        return Brought((_note(self._placed, self._refused),), tuple(self._pictures))

    async def _is_refused(self, attachment: Attachment) -> bool:
        if attachment.reason is None and (reason := self._objection(attachment)) is None:
            return False
        await self._refuse(attachment, attachment.reason or reason or "")
        return True

    def _objection(self, attachment: Attachment) -> str | None:
        rules = self._shared.files
        if attachment.position >= rules.most:
            return f"at most {rules.most} files of a message are taken"
        if attachment.file.size > rules.limit:
            size, limit = format_size(attachment.file.size), format_size(rules.limit)
            return f"it has {size}, and files of at most {limit} are taken"
        return None

    async def _refuse(self, attachment: Attachment, reason: str) -> None:
        name = attachment.file.name
        self._refused.append(f"{name}: {reason}")
        if attachment.state == "refused":
            return
        remark = Remark(f"{name} did not reach Claude: {reason}.")
        if await self._link.remark(self._turn.id, remark, attachment.position):
            self._tell(remark)
        store, turn_id = self._shared.store.files, self._turn.id
        await self._shared.stored(lambda: store.settle(turn_id, attachment.position, reason))

    async def _bring(self, attachment: Attachment) -> None:
        staged, file = self._staging / str(attachment.position), attachment.file
        there = await self._lies_at(attachment)
        if there is not None and not file.mimetype.startswith("image/"):
            await self._note(attachment, there, None)
            return
        path = there or ""
        try:
            file = await self._fetch(file, staged)
            if there is None:
                path = attachment.path or await self._choose(attachment, file.name)
                await self._shared.host.place(self._link.session.worklet, {path: staged})
        except (AgentGone, RuntimeUnavailable):
            raise
        except (FileRefused, WorkletError) as error:
            if there is None:
                await self._refuse(attachment, _clause(error))
            else:  # only it cannot be shown again
                await self._note(attachment, there, None)
            return
        await self._note(attachment, path, staged)

    async def _fetch(self, file: Attached, staged: Path) -> Attached:
        if self._shared.files.fetch is None:
            raise FileRefused("Flow is not connected to where it lies")
        return await self._shared.files.fetch(file, staged, self._shared.files.limit)

    async def _lies_at(self, attachment: Attachment) -> str | None:
        """Where the file is in the workspace already: put there before a restart, or asked about a second time."""
        if self._link.forgotten:
            return None
        if attachment.path is not None:
            return attachment.path if attachment.state == "placed" else None
        path = next((path for path, file_id in self._known.items() if file_id == attachment.file.id), None)
        if path is None or not await self._shared.host.taken(self._link.session.worklet, [path]):
            return None
        await self._store_path(attachment, path)
        return path

    async def _choose(self, attachment: Attachment, name: str) -> str:
        """A path of its own, where neither the agent nor the repository has something."""
        used = {path.casefold() for path in self._known}
        path = free_path(name, used)
        while await self._shared.host.taken(self._link.session.worklet, [path]):
            used.add(path.casefold())
            path = free_path(name, used)
        await self._store_path(attachment, path)
        return path

    async def _store_path(self, attachment: Attachment, path: str) -> None:
        store, turn_id = self._shared.store.files, self._turn.id
        self._known[path] = attachment.file.id
        await self._shared.stored(lambda: store.choose(turn_id, {attachment.position: path}))

    async def _note(self, attachment: Attachment, path: str, staged: Path | None) -> None:
        store, turn_id = self._shared.store.files, self._turn.id
        await self._shared.stored(lambda: store.settle(turn_id, attachment.position, None))
        size, found = attachment.file.size, None
        if staged is not None:
            size, found = await asyncio.to_thread(_look, path, staged)
        room = _PICTURES - sum(len(one.content) for one in self._pictures)
        shown = found is not None and len(found.content) <= room
        if found is not None and shown:
            self._pictures.append(found)
        self._placed.append(_line(path, attachment.file, size, shown=shown))


def _look(path: str, staged: Path) -> tuple[int, Picture | None]:
    return staged.stat().st_size, picture(path, staged.read_bytes())


def _line(path: str, file: Attached, size: int, *, shown: bool) -> str:
    kind = f"{file.mimetype}, " if file.mimetype else ""
    return f"{path} ({kind}{format_size(size)})" + (", shown here" if shown else "")


def _note(placed: Sequence[str], refused: Sequence[str]) -> str:
    lines = []
    if placed:
        lines += ["attached to this message, in your workspace:", *(f"- {line}" for line in placed)]
    if refused:
        head = "and attached, but not to be had:" if placed else "attached to this message, but not to be had:"
        lines += [head, *(f"- {line}" for line in refused)]
    return "[From Flow: " + "\n".join(lines) + "]"


def _clause(error: FlowError) -> str:
    """It goes on after a colon."""
    text = str(error).strip().rstrip(".")
    return text if isinstance(error, FileRefused) else text[:1].lower() + text[1:]


def free_path(name: str, used: Container[str]) -> str:
    """A path for a file of that name; numbered where `used` (in lower case) has it. Pure."""
    plain = PurePosixPath(safe_name(name))
    number, path = 1, f"{FOLDER}/{plain}"
    while path.casefold() in used:
        number += 1
        path = f"{FOLDER}/{plain.stem}-{number}{plain.suffix}"
    return path


def safe_name(name: str) -> str:
    """One component of a path, that neither hides nor leads anywhere and that a shell takes as it is. Pure."""
    text = unicodedata.normalize("NFC", name).replace("\\", "/").rstrip("/").rpartition("/")[2]
    text = re.sub(r"[^\w.+@=-]+", "_", text).strip("_").lstrip(".-") or "file"
    stem, dot, suffix = text.rpartition(".")
    if len(text) > _NAME:
        text = f"{stem[: _NAME - 1 - len(suffix)]}.{suffix}" if dot and len(suffix) <= 10 else text[:_NAME]
    return text
