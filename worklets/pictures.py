"""Pictures that go to Claude as pictures. Pure: what a file's first bytes say, and the bounds of Anthropic's API.

The API refuses a request with a picture that it cannot take, and so every later one of the conversation: whatever is
doubtful stays a file. It takes JPEG, PNG, GIF and WebP, of 5 MB in base64 and 8,000 pixels a side, 2,000 where there
are more than 20 (Anthropic's documentation, "Vision"); the CLI (2.1.329) scales larger ones to 2,000 pixels itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

MOST_BYTES = 5_000_000 * 3 // 4  # base64 makes four of three
_SIDE = 8_000  # pixels
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)  # JPEG's start-of-frame marks


@dataclass(frozen=True, slots=True)
class Picture:
    """`name` is for Claude: where the file lies."""

    name: str
    media_type: str
    content: bytes = field(repr=False)


def picture(name: str, content: bytes) -> Picture | None:
    """The file as a picture; None when it is none that the API takes for sure."""
    if len(content) > MOST_BYTES:
        return None
    for media_type, size_of in _KINDS.items():
        try:
            size = size_of(content)
        except (struct.error, IndexError):
            size = None
        if size is not None:
            return Picture(name, media_type, content) if all(0 < side <= _SIDE for side in size) else None
    return None


Size = tuple[int, int]


def _png(content: bytes) -> Size | None:
    """Chunk by chunk to the last: one that is damaged would be refused."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        return None
    at = 8
    while True:
        length, kind = struct.unpack_from(">I4s", content, at)
        (checksum,) = struct.unpack_from(">I", content, at + 8 + length)
        if zlib.crc32(content[at + 4 : at + 8 + length]) != checksum:
            return None
        if kind == b"IEND":
            break
        at += 12 + length
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def _gif(content: bytes) -> Size | None:
    if content[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    width, height = struct.unpack_from("<HH", content, 6)
    return width, height


def _webp(content: bytes) -> Size | None:
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return None
    match content[12:16]:
        case b"VP8X":
            return _int24(content, 24) + 1, _int24(content, 27) + 1
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", content, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", content, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


def _int24(content: bytes, at: int) -> int:
    return content[at] | content[at + 1] << 8 | content[at + 2] << 16


def _jpeg(content: bytes) -> Size | None:
    """From segment to segment, until the one that begins a frame."""
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    at = 2
    while content[at] == 0xFF:
        mark = content[at + 1]
        if mark == 0xFF:  # filling
            at += 1
        elif mark in _FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from(">H", content, at + 2)[0]
    return None


_KINDS: dict[str, Callable[[bytes], Size | None]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
}
