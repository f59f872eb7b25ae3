"""The relay on a full disk: Claude is held back, no line is lost, and it goes on when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_process import CHILD, RELAY, TOKEN, order
from waiting import until

from worklets.link import RelayLink


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    at = tmp_path / "disk"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", at], check=True)
    yield at
    subprocess.run(["umount", "--lazy", at], check=True)


@pytest.mark.tmpfs
async def test_no_line_is_lost_and_none_said_twice_when_the_disk_was_full(disk: Path, tmp_path: Path) -> None:
    """The relay's own log lies on that disk too, as it does with local worklets."""
    (disk / "run").mkdir()
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, "-I", str(tmp_path / "child.py")]
    spec = {"command": command, "env": {}, "token": TOKEN, "cwd": str(tmp_path / "work"), "home": str(tmp_path)}
    (disk / "run" / "spec.json").write_text(json.dumps(spec))
    with (disk / "relay.log").open("wb") as log:
        relay = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(RELAY), str(disk / "run"), stdout=log, stderr=log
        )
    link = RelayLink(disk / "run", TOKEN, None, 1, notice=lambda _: None, rng=random.Random(1))
    try:
        await link.open(60)
        numbers: list[int] = []

        async def read() -> None:
            async for _, content in link.lines():
                assert isinstance(content, bytes)
                numbers.append(json.loads(content)["n"])

        reading = asyncio.create_task(read())
        await link.put("first", order("count 10 100"))
        await until(lambda: len(numbers) == 10)
        _fill(disk / "filler")
        await link.put("second", order("count 10 2000"))
        await asyncio.sleep(1.5)  # nothing tells that it tries in vain, once a second
        assert len(numbers) < 20
        assert relay.returncode is None
        (disk / "filler").unlink()
        await until(lambda: len(numbers) == 20)
        assert numbers == [*range(1, 11)] * 2
        reading.cancel()
    finally:
        await link.close()
        with contextlib.suppress(ProcessLookupError):
            relay.kill()
        await relay.wait()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            os.write(filler.fileno(), b"x" * 4096)


@pytest.mark.tmpfs
async def test_a_process_beyond_its_disk_is_ended_also_when_there_is_no_room_left_to_say_so(
    disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
    (disk / "run").mkdir()
    (tmp_path / "child.py").write_text(CHILD)
    spec = {
        "command": [sys.executable, "-I", str(tmp_path / "child.py")], "env": {}, "token": TOKEN,
        "cwd": str(tmp_path / "work"), "home": str(tmp_path), "disk": {"paths": [str(disk)], "limit": 7 << 20},
    }  # fmt: skip
    (disk / "run" / "spec.json").write_text(json.dumps(spec))
    relay = await asyncio.create_subprocess_exec(sys.executable, "-I", str(RELAY), str(disk / "run"))
    try:
        (disk / "most").write_bytes(b"x" * (6 << 20))
        await until(lambda: '"full": false' in _said(disk / "run"), 30, "word that the limit is near")
        assert _children(relay.pid)
        _fill(disk / "filler")
        await until(lambda: not _children(relay.pid), 60, "the end of the process")
        assert relay.returncode is None, "how it ended is still to be written"
        (disk / "filler").unlink()
        assert await asyncio.wait_for(relay.wait(), 60) == 0
        assert '"full": true' in _said(disk / "run")
        assert '"code": -15' in _said(disk / "run")
    finally:
        with contextlib.suppress(ProcessLookupError):
            relay.kill()
        await relay.wait()


def _said(run_dir: Path) -> str:
    return "".join(path.read_text() for path in (run_dir / "journal").glob("*.log"))


def _children(relay: int) -> list[str]:
    """The relay's Claude; what it starts to measure is not counted."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == relay:
                found.append((path.parent / "cmdline").read_text())
    return [one for one in found if "child.py" in one]
