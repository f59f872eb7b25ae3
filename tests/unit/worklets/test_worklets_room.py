"""No worklet starts on a disk that is nearly full: a real one, in memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from worklets.errors import RuntimeUnavailable, WorkletStartFailed
from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.room import Room, sentence

MIB = 1 << 20
pytestmark = pytest.mark.tmpfs


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """100 MiB, so that 2 MiB are too few; and 2,000 files."""
    at = tmp_path / "disk"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,nr_inodes=2000", "tmpfs", at], check=True)
    yield at
    subprocess.run(["umount", "--lazy", at], check=True)


async def test_the_reserve_is_kept_and_it_is_said_once(disk: Path) -> None:
    room = Room(disk)
    with structlog.testing.capture_logs() as logged:
        assert (await room.state())["state"] == "ok"
        await room.require()
        (disk / "much").write_bytes(b"x" * (99 * MIB))
        for _ in range(3):
            with pytest.raises(WorkletStartFailed, match=rf"No worklet starts: the disk of {disk} is nearly full"):
                await room.require()
        (disk / "much").unlink()
        await room.require()
    assert [one["log_level"] for one in logged] == ["warning", "info"]


async def test_a_disk_that_takes_no_more_files_is_full_too(disk: Path) -> None:
    for number in range(1200):
        (disk / f"{number}").touch()
    found = await Room(disk).state()
    assert found["state"] == "low"
    assert " files are left)." in sentence(found)


async def test_the_engines_disk_counts_as_well(disk: Path, tmp_path: Path) -> None:
    (disk / "much").write_bytes(b"x" * (99 * MIB))

    async def engines() -> list[Path]:
        return [disk, tmp_path / "of another machine"]

    assert (await Room(tmp_path, 1).state())["state"] == "ok"
    found = await Room(tmp_path, places=engines).state()
    assert (found["state"], found["place"]) == ("low", str(disk))

    async def away() -> list[Path]:
        raise RuntimeUnavailable("No Docker engine answers.")

    assert (await Room(tmp_path, 1, away).state())["place"] == str(tmp_path)


async def test_the_host_starts_nothing_then(disk: Path) -> None:
    """Neither for a thread nor for the pool."""
    identity = Identity.load(disk)
    runtime = LocalRuntime(share_dir=disk, identity=identity)
    host = WorkletHost(runtime, ModelGateway("http://localhost:1", None, identity), identity, disk)
    (disk / "much").write_bytes(b"x" * (99 * MIB))
    with pytest.raises(WorkletStartFailed, match="nearly full"):
        await host.open(
            "w", claude_session_id="1", has_history=False, position=None, fence=1, env={}, repository=None,
            branch=None, on_step=lambda _: None,
        )  # fmt: skip
    with pytest.raises(WorkletStartFailed, match="nearly full"):
        await host.prepare("spare", "1")
    assert await runtime.list() == []
    await runtime.close()
