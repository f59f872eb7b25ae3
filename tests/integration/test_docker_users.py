"""Flow as a member of the docker group instead of root: its worklets have another user id than it has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import traceback
from pathlib import Path

import docker.types
import pytest
import requests.exceptions  # everything is imported beforehand: the other user may not read this interpreter's files
from images import worklet_image
from waiting import until

from worklets.docker import DockerRuntime
from worklets.identity import Identity
from worklets.runtime import WorkletSpec
from worklets.sockets import short_path

assert docker.types
assert requests.exceptions

pytestmark = pytest.mark.docker


async def story(share_dir: Path, image: str) -> None:
    """Start, meet the relay, remove everything, down to directories that only the agent's user may change."""
    runtime = DockerRuntime(
        share_dir=share_dir, identity=Identity.load(share_dir), image=image, memory=512 << 20, cpus=1
    )  # fmt: skip
    script = "mkdir -p /run/worklet/deep; touch /run/worklet/deep/file; chmod 700 /run/worklet/deep; exec sleep 100"
    try:
        await runtime.check()
        worklet = await runtime.start(WorkletSpec("x", ("bash", "-c", script), "token", {}))
        await until((worklet.run_dir / "deep").exists)
        with socket.socket(socket.AF_UNIX) as client:
            await until(lambda: _connects(client, worklet.run_dir))
    finally:
        await runtime.remove("x", grace=0)
        await runtime.remove_volume("x")
        assert await runtime.volumes() == []
        assert not (share_dir / "worklets" / "x").exists()
        await runtime.close()


def _connects(client: socket.socket, run_dir: Path) -> bool:
    with contextlib.suppress(OSError), short_path(run_dir, "relay.sock") as path:
        client.connect(path)
        return True
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
@pytest.mark.parametrize("uid", [1000, 1001])
async def test_flow_need_not_be_root(uid: int) -> None:
    image = await worklet_image()
    share_dir = Path(tempfile.mkdtemp())
    shutil.chown(share_dir, uid, uid)
    try:
        pid = os.fork()
        if pid == 0:
            _as_user(uid, share_dir, image)
        code = os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, pid, 0))[1])
        assert code == 0, (share_dir / "error").read_text()
    finally:
        shutil.rmtree(share_dir)


def _as_user(uid: int, share_dir: Path, image: str) -> None:
    """Runs the story as that user in the docker group, and ends the process."""
    try:
        asyncio.set_event_loop(None)
        asyncio._set_running_loop(None)
        os.setgroups([Path("/var/run/docker.sock").stat().st_gid])
        os.setgid(uid)
        os.setuid(uid)
        asyncio.run(story(share_dir, image))
    except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as a second pytest
        with contextlib.suppress(OSError):
            (share_dir / "error").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)
