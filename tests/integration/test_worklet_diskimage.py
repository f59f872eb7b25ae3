"""Volumes that the kernel holds to a size: real images, loop devices and containers."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from images import worklet_image
from waiting import until

from worklets.diskimages import DiskImages, _attached_to, obstacle
from worklets.docker import DockerRuntime
from worklets.errors import AgentGone, WorkletError, WorkletStartFailed
from worklets.identity import Identity
from worklets.runtime import Worklet, WorkletSpec
from worklets.volumes import Volumes

LIMIT = 64 << 20
SIZE = LIMIT + LIMIT // 16 + (64 << 20)
HERE = obstacle("unix:///var/run/docker.sock", socket.gethostname())

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300), pytest.mark.skipif(HERE is not None, reason=str(HERE))]


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    made = DockerRuntime(
        share_dir=tmp_path, identity=Identity.load(tmp_path), image=await worklet_image(), memory=256 << 20, cpus=1,
        disk=LIMIT, disk_image="on",
    )  # fmt: skip
    try:
        yield made
    finally:
        for worklet in await made.list():
            await made.remove(worklet.name, grace=0)
        for name in await made.volumes():
            await made.remove_volume(name)
        await made.close()


def spec(name: str) -> WorkletSpec:
    return WorkletSpec(name, ("sleep", "1000"), "token")


def image_of(share: Path, name: str) -> Path:
    return share / "worklets" / name / "volume.img"


def has_device(image: Path) -> bool:
    found = _attached_to(image) if image.exists() else None
    if found is not None:
        os.close(found[0])
    return found is not None


async def inside(container: str, command: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run, ["docker", "exec", container, "bash", "-c", command], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


async def test_the_kernel_holds_a_worklet_to_its_size(runtime: DockerRuntime, tmp_path: Path) -> None:
    worklet = await runtime.start(spec("full"))
    image = image_of(tmp_path, "full")
    assert image.stat().st_blocks * 512 < 4 << 20, "it takes what is in it"
    # In one go: a full worklet is ended as soon as its relay has looked.
    full = "head -c 200M /dev/zero 2>&1 > /work/much; stat -c %s /work/much"
    said = await inside(worklet.id, f"{full}; rm /work/much; echo kept > /work/kept; sync; echo DONE")
    assert "No space left" in said
    written, done = said.split()[-2:]
    assert LIMIT < int(written) < SIZE, "people are told before"
    assert done == "DONE"
    await until(lambda: image.stat().st_blocks * 512 < 16 << 20, timeout=60, what="what was deleted to be given back")
    # The next container has what the last one kept; between them nothing is attached.
    await runtime.remove("full")
    await until(lambda: not has_device(image), timeout=60, what="the device to go")
    again = await runtime.start(spec("full"))
    assert await inside(again.id, "cat /work/kept; stat -c '%u %a' /work") == "kept\n1000 755\n"
    assert not [one for one in (await inside(again.id, "ls -A /work")).split() if one == "lost+found"]
    await runtime.remove("full")
    await runtime.remove_volume("full")
    assert not image.parent.exists()


async def test_repositories_are_put_into_it_and_workspaces_copied(runtime: DockerRuntime, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "README").write_text("put")
    await runtime.put("first", tmp_path / "repository")
    first = await runtime.start(spec("first"))
    assert await inside(first.id, "cat /work/workspace/README; echo more > /work/workspace/more") == "put"
    await runtime.copy("first", "second")  # of one that runs
    await runtime.remove("first")
    await until(lambda: not has_device(image_of(tmp_path, "first")), timeout=60, what="the device to go")
    await runtime.copy("first", "third")  # of one that sleeps
    for name in ("second", "third"):
        worklet = await runtime.start(spec(name))
        assert await inside(worklet.id, "cat /work/workspace/*") == "putmore\n"
        assert int(await inside(worklet.id, "stat -f -c '%b' /work")) * 1024 < SIZE * 2


async def test_too_much_to_put_into_it_is_said(runtime: DockerRuntime, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "large").write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(WorkletError, match="take more than 64 MiB"):  # told before the image is full
        await runtime.put("large", tmp_path / "repository")
    await runtime.remove_volume("large")
    assert not has_device(image_of(tmp_path, "large"))


def test_an_image_that_nobody_mounts_leaves_no_device(tmp_path: Path) -> None:
    images = DiskImages(tmp_path, LIMIT)
    images.make("one")
    images.make("other")
    image = image_of(tmp_path.resolve(), "one")
    with images.attached("one"), images.attached("other"):
        links = [os.readlink(image_of(tmp_path, name).with_name("volume.dev")) for name in ("one", "other")]
        assert links[0] != links[1]
        assert has_device(image)
    assert not has_device(image)
    assert not image.with_name("volume.dev").is_symlink(), "the device's number may be another's from now on"


def test_two_that_want_one_image_have_one_device(tmp_path: Path) -> None:
    """Also while it grows, which takes a while: two devices of one file, each mounted, destroy what is in it."""
    DiskImages(tmp_path, LIMIT).make("one")
    both, most = threading.Barrier(2), list[int]()

    def attach() -> None:
        both.wait(60)
        with DiskImages(tmp_path, 100 * LIMIT).attached("one"):
            most.append(len(_devices_of(image_of(tmp_path, "one"))))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(attach) for _ in range(2)]:
            done.result(120)
    assert most == [1, 1]
    assert not has_device(image_of(tmp_path, "one"))


def _devices_of(image: Path) -> list[str]:
    told = subprocess.run(["losetup", "-n", "-O", "NAME", "-j", image], capture_output=True, text=True, check=True)
    return told.stdout.split()


def test_a_device_that_a_killed_flow_left_goes_with_its_next_mount(tmp_path: Path) -> None:
    images = DiskImages(tmp_path, LIMIT)
    images.make("one")
    image = image_of(tmp_path, "one")
    subprocess.run(["losetup", "--find", image], check=True)  # without LO_FLAGS_AUTOCLEAR, it stays
    assert has_device(image)
    with images.attached("one"):
        assert len(_devices_of(image)) == 1
    assert not has_device(image)


async def test_what_has_ended_is_given_no_files(runtime: DockerRuntime, tmp_path: Path) -> None:
    """The engine would mount its volume anew, from a loop device that may be another worklet's by now."""
    (tmp_path / "file").write_text("for the first one")
    first = await runtime.start(spec("first"))
    await runtime.place("first", {"attachments/seen": tmp_path / "file"})
    assert await runtime.taken("first", ["attachments/seen"]) == {"attachments/seen"}
    assert not image_of(tmp_path, "first").with_name("volume.dev").is_symlink()
    await asyncio.to_thread(subprocess.run, ["docker", "kill", first.id], capture_output=True, check=True)
    await until(lambda: not has_device(image_of(tmp_path, "first")), timeout=60, what="the device to go")
    second = await runtime.start(spec("second"))
    with pytest.raises(AgentGone):
        await runtime.place("first", {"attachments/lost": tmp_path / "file"})
    with pytest.raises(AgentGone):
        await runtime.taken("first", ["attachments/seen"])
    # Not even for one who asks the engine past Flow.
    asked = ["docker", "cp", str(tmp_path / "file"), f"{first.id}:/work/workspace/lost"]
    done = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "volume.dev" in done.stderr
    assert await inside(second.id, "find /work -type f") == ""


def test_an_image_grows_when_more_is_allowed(tmp_path: Path) -> None:
    """Which is what people are told to ask for."""
    images = DiskImages(tmp_path, LIMIT)
    images.make("one")
    image = image_of(tmp_path, "one")
    with images.attached("one"):
        assert _size(image) == images.size
    larger = DiskImages(tmp_path, 20 * LIMIT)
    with larger.attached("one"):
        assert _size(image) == image.stat().st_size == larger.size
    assert image.stat().st_blocks * 512 < 16 << 20
    with images.attached("one"):
        assert _size(image) == larger.size, "it never shrinks"


def test_what_is_promised_to_running_worklets_has_to_be_there(tmp_path: Path) -> None:
    """A full disk would fail at what they wrote, and took for stored."""
    disk = os.statvfs(tmp_path)
    images = DiskImages(tmp_path, disk.f_bavail * disk.f_frsize * 6 // 10)
    images.make("one")
    images.make("other")
    with images.attached("one"):
        with pytest.raises(WorkletStartFailed, match="has not the room that"), images.attached("other"):
            pass
        assert not has_device(image_of(tmp_path, "other"))
    with images.attached("other"):
        pass


async def test_one_that_writes_on_while_the_disk_is_nearly_full_is_ended(tmp_path: Path) -> None:
    """Others fill the disk after it has started."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", disk], check=True)
    runtime = DockerRuntime(
        share_dir=disk, identity=Identity.load(disk), image=await worklet_image(), memory=256 << 20, cpus=1,
        disk=LIMIT, disk_image="on",
    )  # fmt: skip
    try:
        one = await runtime.start(spec("one"))
        other = await runtime.start(spec("other"))
        await until(lambda: (one.run_dir / "relay.sock").exists(), timeout=60, what="the relay")
        with (disk / "much").open("wb") as much:
            told = os.statvfs(disk)
            os.posix_fallocate(much.fileno(), 0, told.f_bavail * told.f_frsize - (7 << 20))
        await inside(one.id, "head -c 3M /dev/zero > /work/more; sync")

        async def is_over(worklet: Worklet) -> bool:
            found = await runtime.find(worklet.name)
            return found is None or not found.running

        await until(partial(is_over, one), timeout=60, what="its end")
        assert "this worklet writes on: ending" in await runtime.logs("one")
        assert b'"crowded": true' in b"".join(path.read_bytes() for path in (one.run_dir / "journal").glob("*.log"))
        assert not await is_over(other)
    finally:
        for name in ("one", "other"):
            await runtime.remove(name, grace=0)
            await runtime.remove_volume(name)
        await runtime.close()
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_growing_that_was_cut_off_is_done_the_next_time(tmp_path: Path) -> None:
    DiskImages(tmp_path, LIMIT).make("one")
    image, larger = image_of(tmp_path, "one"), DiskImages(tmp_path, 20 * LIMIT)
    os.truncate(image, larger.size)  # and killed before resize2fs
    with larger.attached("one"):
        assert _size(image) == larger.size


def _size(image: Path) -> int:
    """Of the file system: ext4(5), blocks and their size."""
    with image.open("rb") as file:
        file.seek(1024)
        block = file.read(64)
    count, log = struct.unpack_from("<I", block, 4)[0], struct.unpack_from("<I", block, 24)[0]
    return int(count) * (1024 << int(log))


def test_a_broken_image_is_not_mounted(tmp_path: Path) -> None:
    images = DiskImages(tmp_path, LIMIT)
    images.make("one")
    with image_of(tmp_path, "one").open("r+b") as file:
        file.write(b"\0" * (1 << 20))
    with pytest.raises(WorkletStartFailed, match="disk cannot be set up: e2fsck"), images.attached("one"):
        pass


def test_where_none_can_be_made_that_is_known() -> None:
    assert obstacle("tcp://192.0.2.1:2375", socket.gethostname()) == "the Docker engine is on another machine"
    assert obstacle("unix:///var/run/docker.sock", "another") == "the Docker engine is on another machine"


def test_whether_loop_devices_can_be_attached_is_tried(tmp_path: Path) -> None:
    assert DiskImages(tmp_path, LIMIT).trouble() is None
    assert list(tmp_path.iterdir()) == []
    assert "cannot be attached (No such file" in str(DiskImages(tmp_path / "gone", LIMIT).trouble())


class _Engine:
    """An engine that remaps users."""

    def info(self) -> dict[str, Any]:
        return {"Name": socket.gethostname(), "SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}


def test_an_engine_that_maps_users_gets_plain_volumes(tmp_path: Path) -> None:
    volumes = Volumes(tmp_path, "flow-x-", {}, limit=LIMIT, mode="auto", engine_host="unix:///var/run/docker.sock")
    engine: Any = _Engine()
    assert volumes.obstacle(engine) == "the Docker engine maps users to others"
