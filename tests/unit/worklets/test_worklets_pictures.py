"""Which files go to Claude as pictures: only those that its API takes for sure."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklets.pictures import MOST_BYTES, Picture, picture
from worklets.wire import prompt_line


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 300) + bytes(300)
    frame = b"\xff\xc2" + struct.pack(">HBHH", 11, 8, height, width) + bytes(4)
    return b"\xff\xd8" + exif + b"\xff" + frame + b"\xff\xd9"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0;"


def webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def lossy(width: int, height: int) -> bytes:
    return webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(4))


def lossless(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(4))


def extended(width: int, height: int) -> bytes:
    sides = b"".join(struct.pack("<I", side - 1)[:3] for side in (width, height))
    return webp(b"VP8X", bytes(4) + sides)


KINDS = {
    "image/png": [png],
    "image/jpeg": [jpeg],
    "image/gif": [gif],
    "image/webp": [lossy, lossless, extended],
}


@pytest.mark.parametrize(("media_type", "make"), [(kind, make) for kind, makers in KINDS.items() for make in makers])
def test_a_picture_by_its_bytes_and_its_bounds(media_type: str, make: object) -> None:
    assert callable(make)
    found = picture("attachments/a", make(640, 480))
    assert found is not None
    assert found.media_type == media_type
    assert picture("a", make(8000, 8000)) is not None
    assert picture("a", make(8001, 10)) is None
    assert picture("a", make(10, 8001)) is None


def test_what_is_none() -> None:
    assert picture("a.png", b"hello") is None
    assert picture("a.png", b"") is None
    assert picture("a.png", png(4, 4)[:-20]) is None  # cut off
    damaged = bytearray(png(4, 4))
    damaged[45] ^= 1
    assert picture("a.png", bytes(damaged)) is None
    assert picture("a.png", png(0, 4)) is None
    assert picture("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>") is None
    assert picture("a.gif", gif(4, 4) + bytes(MOST_BYTES)) is None


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff", b"GIF89a", b"RIFF"]),
)
def test_no_bytes_are_an_error(content: bytes, start: bytes) -> None:
    picture("a", start + content)


def test_claude_sees_each_picture_under_its_path() -> None:
    line = prompt_line("id", "what is it?", ["[note]"], [Picture("attachments/a.png", "image/png", b"\x01\x02")])
    assert line["message"]["content"] == [
        {"type": "text", "text": "[note]"},
        {"type": "text", "text": "attachments/a.png:"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AQI="}},
        {"type": "text", "text": "what is it?"},
    ]
