"""HTTP/1.1 without any input or output: bytes of an answer go in, the answer comes out (RFC 9112).

`http.client` would do the reading, but blocks, and costs 36 ms to import; the async client needs the same rules.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_MAX_HEAD: Final = 65_536
_DIGITS: Final = re.compile(r"[1-9][0-9]{2}")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes
    reusable: bool  # the connection may carry another request


class BadAnswer(Exception):
    """What came back is not HTTP."""


class AnswerReader:
    """Reads one answer to a POST. `feed` everything that arrives, and b"" when the other side closed."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._persistent = False
        self._length: int | None = None  # of the body; None: until the connection is closed
        self._chunks: list[bytes] | None = None
        self._head_read = False
        self._trailer = False

    @property
    def begun(self) -> bool:
        return self._head_read or bool(self._buffer)

    def feed(self, data: bytes) -> Answer | None:
        """The answer, once it is whole. Raises BadAnswer, and ConnectionResetError when it broke off."""
        self._buffer += data
        while not self._head_read:
            if not self._read_head():
                if data:
                    return None
                raise ConnectionResetError("the connection was closed before the answer was whole")
        if self._chunks is not None:
            body = self._read_chunks(self._chunks)
        elif self._length is not None:
            body = bytes(self._buffer[: self._length]) if len(self._buffer) >= self._length else None
            if body is not None:
                del self._buffer[: self._length]
        else:
            body = None if data else bytes(self._buffer)
        if body is None:
            if data:
                return None
            raise ConnectionResetError("the connection was closed before the answer was whole")
        framed = self._length is not None or self._chunks is not None
        reusable = bool(data) and self._persistent and framed and not self._buffer
        return Answer(self._status, self._headers, body, reusable)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD or not b"HTTP/".startswith(self._buffer[:5]):
                raise BadAnswer("what answers there does not speak HTTP")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        self._status = _status(lines[0])
        if self._status == 101:
            raise BadAnswer("the server wants another protocol")
        if self._status < 200:  # informational: the answer proper follows
            return self._read_head()
        self._headers = _headers(lines[1:])
        self._frame(lines[0].startswith("HTTP/1.0"))
        self._head_read = True
        return True

    def _frame(self, old: bool) -> None:
        connection = self._headers.get("connection", "").lower()
        self._persistent = "keep-alive" in connection if old else "close" not in connection
        encoding = self._headers.get("transfer-encoding", "").lower()
        length = self._headers.get("content-length")
        if self._status in (204, 304):
            self._length = 0
        elif encoding:
            if encoding != "chunked":
                raise BadAnswer("the answer's transfer encoding is unknown")
            self._chunks = []
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise BadAnswer("the answer's length is no number")
            self._length = int(length)

    def _read_chunks(self, chunks: list[bytes]) -> bytes | None:
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD:
                    raise BadAnswer("the answer's chunks are broken")
                return None
            if self._trailer:
                empty = end == 0
                del self._buffer[: end + 2]
                if empty:
                    return b"".join(chunks)
                continue
            size = _chunk_size(bytes(self._buffer[:end]))
            if size == 0:
                del self._buffer[: end + 2]
                self._trailer = True
                continue
            last = end + 2 + size
            if len(self._buffer) < last + 2:
                return None
            if self._buffer[last : last + 2] != b"\r\n":
                raise BadAnswer("the answer's chunks are broken")
            chunks.append(bytes(self._buffer[end + 2 : last]))
            del self._buffer[: last + 2]


def _status(line: str) -> int:
    version, _, rest = line.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or _DIGITS.fullmatch(rest[:3]) is None:
        raise BadAnswer("what answers there does not speak HTTP/1.1")
    return int(rest[:3])


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadAnswer("the answer's headers are broken")
        name, value = name.lower(), value.strip(" \t")
        if name == "content-length" and headers.get(name, value) != value:
            raise BadAnswer("the answer has two lengths")
        headers[name] = value
    return headers


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        if not digits or not digits.isalnum():
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise BadAnswer("the answer's chunks are broken") from None
