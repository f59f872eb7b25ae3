"""The content of what people attach, from Slack.

A private address wants the bot's token and the scope files:read; without them Slack answers with its sign-in page and
status 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.fileobjects import attached
from bot.refusals import Meaning, refusal
from config.logging import get_logger
from config.units import format_size
from sessions.filerules import FileRefused
from sessions.types import Attached

log = get_logger(__name__)

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further try
_LONGEST_PAUSE = 30.0  # that Slack may ask for
_SECONDS = aiohttp.ClientTimeout(total=300, sock_connect=10, sock_read=20)
_CHUNK = 256 * 1024
_NO_ACCESS = "Slack does not let me read it; the app may lack the scope files:read"
_GONE = "it was deleted in Slack"


class Downloads:
    """`pauses`: seconds before each further try."""

    def __init__(self, client: AsyncWebClient, *, pauses: Sequence[float] = _PAUSES) -> None:
        self._client, self._pauses = client, pauses

    async def fetch(self, file: Attached, into: Path, limit: int) -> Attached:
        """Writes the file's content to `into`; the file as Slack knows it. Raises FileRefused."""
        for pause in (*self._pauses, None):
            try:
                return await self._try(file, into, limit)
            except _Passing as passing:
                log.info("a file was not given out", file=file.id, why=str(passing), last=pause is None)
                if pause is not None:
                    await asyncio.sleep(min(_LONGEST_PAUSE, passing.seconds or pause))
                    continue
            except SlackApiError as error:
                raise FileRefused(_worded(refusal(error).error)) from error
        raise FileRefused("Slack did not give it out; send it again")

    async def _try(self, file: Attached, into: Path, limit: int) -> Attached:
        if not file.url:
            file = await self._known(file)
        if not self._is_slacks(file.url):  # the token goes to nobody else
            raise FileRefused("it lies outside of Slack; download it and attach the copy")
        headers = {"Authorization": f"Bearer {self._client.token}"}
        try:
            async with (
                _session(self._client) as http,
                http.get(file.url, headers=headers, allow_redirects=False, timeout=_SECONDS) as answer,
            ):
                _check(answer, file)
                size = await _write(answer.content, into, limit)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Passing(type(error).__name__) from error
        if file.mimetype == "text/html" and file.size not in (0, size):  # the sign-in page is one too
            raise FileRefused(_NO_ACCESS)
        return file

    async def _known(self, file: Attached) -> Attached:
        try:
            answer = await self._client.files_info(file=file.id)
        except (SlackApiError, aiohttp.ClientError, TimeoutError) as error:
            said = refusal(error)
            if said.meaning in (Meaning.LIMITED, Meaning.UNKNOWN):
                raise _Passing(said.error, said.seconds) from error
            raise
        found = answer.get("file")
        known = attached([found]) if isinstance(found, dict) else ()
        if not known:
            raise FileRefused(_GONE)
        return known[0]

    def _is_slacks(self, address: str) -> bool:
        here, there = urlsplit(self._client.base_url), urlsplit(address)
        same = (here.scheme, here.netloc) == (there.scheme, there.netloc)
        host = there.hostname or ""
        return same or (there.scheme == "https" and (host == "slack.com" or host.endswith(".slack.com")))


class _Passing(Exception):
    """It may work in a moment. `seconds`: Slack's Retry-After."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


@asynccontextmanager
async def _session(client: AsyncWebClient) -> AsyncIterator[aiohttp.ClientSession]:
    """The client's own; one for this call where it has none."""
    if client.session is not None:
        yield client.session
        return
    async with aiohttp.ClientSession(trust_env=True) as session:
        yield session


def _check(answer: aiohttp.ClientResponse, file: Attached) -> None:
    """Raises _Passing, FileRefused when the answer is not the file."""
    if answer.status == 429 or answer.status >= 500:
        after = answer.headers.get("Retry-After", "")
        raise _Passing(f"HTTP {answer.status}", float(after) if after.isdecimal() else 0.0)
    if answer.status in (404, 410):
        raise FileRefused(_GONE)
    if answer.status != 200 or (answer.content_type == "text/html" and file.mimetype != "text/html"):
        raise FileRefused(_NO_ACCESS)


async def _write(content: aiohttp.StreamReader, into: Path, limit: int) -> int:
    size = 0
    with await asyncio.to_thread(into.open, "wb") as copy:
        async for chunk in content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise FileRefused(f"it is larger than {format_size(limit)}")
            await asyncio.to_thread(copy.write, chunk)
    return size


def _worded(error: str) -> str:
    if error in ("file_not_found", "file_deleted", "access_denied"):
        return f"{_GONE}, or is not shared with me"
    if error == "missing_scope":
        return _NO_ACCESS
    return f"Slack does not give it out ({error})"
