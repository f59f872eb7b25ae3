"""Files and pictures between people and the real Claude CLI, in both directions."""

from __future__ import annotations

import base64
import signal
import struct
import zlib
from typing import Any

import pytest
from world import World

pytestmark = pytest.mark.one_runtime


def png(width: int = 8, height: int = 8) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + b"\xff\x80\0" * width for _ in range(height)))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def shown_to_claude(world: World) -> list[dict[str, Any]]:
    """The image blocks of the model's requests, tool results left out."""
    return [
        block
        for request in world.model.requests
        for message in request.body.get("messages", [])
        if isinstance(message["content"], list)
        for block in message["content"]
        if block.get("type") == "image"
    ]


def pictures(world: World, root_ts: str) -> list[bytes | None]:
    files = world.slack.workspace.files
    messages = world.slack.messages("general", thread_ts=root_ts)
    return [files[file["id"]].content for m in messages if m.get("bot_id") for file in m.get("files", [])]


SEND = 'TOOL mcp__flow__send_file {"path": "attachments/chart.png", "title": "The same", "comment": "Look:"}'


async def test_a_picture_in_and_out_again(world: World) -> None:
    await world.program.start()
    asked = f"@Flow what is it?\n{SEND}\nBASH cat attachments/notes.txt\nSAY That was it."
    attached = [("chart.png", png()), ("notes.txt", b"seventeen apples\n")]
    root = await world.slack.post("maya", "#general", asked, files=attached)
    await world.settled(root, "That was it.")
    (image, *_) = shown_to_claude(world)
    assert image["source"]["media_type"] == "image/png"
    assert base64.b64decode(image["source"]["data"]) == png()
    assert any("attachments/notes.txt (text/plain, 17 B)" in str(request.body) for request in world.model.requests)
    results = [str(request.body) for request in world.model.requests]
    assert any("chart.png is in the thread." in result for result in results)
    assert any("seventeen apples" in result for result in results)
    assert pictures(world, root) == [png()]


async def test_a_kill_between_upload_and_note_shows_the_picture_once(world: World) -> None:
    await world.program.start()
    world.slack.faults.hang("files.completeUploadExternal", after=True)
    asked = f"@Flow again\n{SEND}\nSAY There it is."
    root = await world.slack.post("maya", "#general", asked, files=[("chart.png", png())])
    await world.slack.wait_for(lambda: pictures(world, root))
    await world.program.end(signal.SIGKILL)
    await world.program.start()
    await world.settled(root, "There it is.")
    assert pictures(world, root) == [png()]
    assert any("chart.png is in the thread." in str(request.body) for request in world.model.requests)
