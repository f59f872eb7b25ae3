"""The commonest response: a short JSON text with status 200, written in one piece.

aiohttp's own response costs several times as much, most of it for headers that are the same each time.
"""

from __future__ import annotations

import functools
import time
from email.utils import formatdate
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE

CONTENT_TYPE: Final = "application/json; charset=utf-8"
SHORT: Final = 65_536  # bytes


class Answer(web.StreamResponse):
    """The JSON text `body`, to a request that is `usual`. Its headers cannot be changed."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._json = body
        self._writer: AbstractStreamWriter | None = None

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        self._writer = request.writer
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - the base's
        assert self._writer is not None
        await self._writer.write_eof(b"%b%d\r\n\r\n%b" % (_head(int(time.time())), len(self._json), self._json))


def usual(request: web.BaseRequest) -> bool:
    """Whether the connection stays open after the answer, and nobody wants to add headers to it."""
    return (
        request.version == HttpVersion11
        and request.keep_alive
        and request.method == "POST"
        and not (isinstance(request, web.Request) and any(app.on_response_prepare for app in request.match_info.apps))
    )


@functools.lru_cache(maxsize=2)
def _head(second: int) -> bytes:
    """Up to the length."""
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nDate: {formatdate(second, usegmt=True)}\r\n"
        f"Server: {SERVER_SOFTWARE}\r\nContent-Length: "
    ).encode()
