"""Sidecars that are ended before they have started, and starts that fail by the machine's fault."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from worklets.sidecars import Sidecar, Sidecars

GRANT: dict[str, Any] = {"command": ["x"], "env": {}, "hosts": []}


class Slow:
    """A place in which a start takes until `go`, or fails with `error`."""

    def __init__(self, error: OSError | None = None) -> None:
        self.began, self.go, self.error = asyncio.Event(), asyncio.Event(), error
        self.done: list[str] = []

    async def start(self, sidecar: Sidecar) -> None:
        self.began.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.done.append(f"started {sidecar.image}")

    async def end(self, worklet: str) -> None:
        self.done.append(f"ended {worklet}")

    async def running(self) -> dict[str, list[float]]:
        return {}


@pytest.mark.parametrize("whole", [False, True])
async def test_no_end_waits_for_an_image(tmp_path: Path, whole: bool) -> None:
    asked, never, place = asyncio.Event(), asyncio.Event(), Slow()

    async def image(base: str) -> str:
        asked.set()
        await never.wait()
        return base

    sidecars = Sidecars(place, tmp_path, egress=False, image=image)
    sidecars.begin("w", sidecars.placed("w", {"mcp": {"own": {**GRANT, "image": "node:22"}}}))
    async with asyncio.timeout(30):
        await asked.wait()
        await (sidecars.aclose() if whole else sidecars.end("w"))
    assert place.done == ([] if whole else ["ended w"])
    assert not place.began.is_set()


async def test_a_container_on_its_way_is_waited_for_and_ended(tmp_path: Path) -> None:
    place = Slow()

    async def image(base: str) -> str:
        return f"{base} with Flow"

    sidecars = Sidecars(place, tmp_path, egress=False, image=image)
    sidecars.begin("w", sidecars.placed("w", {"mcp": {"own": {**GRANT, "image": "node:22"}}}))
    async with asyncio.timeout(30):
        await place.began.wait()
        ending = asyncio.create_task(sidecars.end("w"))
        await asyncio.sleep(0)
        place.go.set()
        await ending
    assert place.done == ["started node:22 with Flow", "ended w"]


async def test_a_full_disk_is_told_to_the_thread(tmp_path: Path) -> None:
    heard: list[str] = []
    place = Slow(OSError(errno.ENOSPC, "No space left on device"))
    place.go.set()
    sidecars = Sidecars(place, tmp_path, egress=False)
    sidecars.tell = lambda _, text: heard.append(text)
    sidecars.begin("w", sidecars.placed("w", {"mcp": {"own": GRANT}}))
    async with asyncio.timeout(30):
        await sidecars.aclose()
    assert heard == ["The MCP server own does not start: [Errno 28] No space left on device"]
