"""What `flow doctor` says of what worklets are held to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from images import IMAGE, worklet_image

from bot.doctor import find
from config.settings import load


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path))
    monkeypatch.setenv("FLOW_IMAGE", IMAGE)


@pytest.mark.docker
async def test_an_engine_that_holds_all_limits_and_one_without_the_wanted_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await worklet_image()
    found = await find("isolation", load())
    assert found.state == "ok"
    text = "all limits hold, the filter of system calls too; disk: watched; OCI runtime: the engine's own"
    assert found.text == text
    monkeypatch.setenv("FLOW_WORKLET_DISK_IMAGE", "auto")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "disk: watched (Flow does not run as root)" in (await find("isolation", load())).text
    monkeypatch.setenv("FLOW_WORKLET_DISK_IMAGE", "on")
    found = await find("isolation", load())
    assert (found.state, found.text) == ("fail", "worklets' disks cannot be held to a size: Flow does not run as root")
    monkeypatch.setenv("FLOW_WORKLET_DISK_IMAGE", "off")
    assert "disk: watched; " in (await find("isolation", load())).text
    monkeypatch.setenv("FLOW_WORKLET_RUNTIME", "flow-no-such-runtime")
    monkeypatch.setenv("FLOW_RUNTIME", "docker")
    found = await find("engine", load())
    assert (found.state, found.text[:52]) == ("fail", "The Docker engine has no runtime flow-no-such-runtim")
    assert "FLOW_WORKLET_RUNTIME" in found.advice
    for name in ("isolation", "worklet image", "networks"):
        assert (await find(name, load())).text == "not looked at before the engine is in order"


async def test_where_there_is_nothing_to_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert (await find("isolation", load())).state == "skip"
    monkeypatch.setenv("FLOW_RUNTIME", "local")
    assert (await find("isolation", load())).text == "the local runtime isolates nothing"


@pytest.mark.tmpfs
async def test_a_disk_on_which_no_worklet_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", disk], check=True)
    try:
        (disk / "much").write_bytes(b"x" * (99 << 20))
        monkeypatch.setenv("FLOW_SHARE_DIR", str(disk))
        monkeypatch.setenv("FLOW_RUNTIME", "local")
        found = await find("disk", load())
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert found.state == "fail"
    assert found.text.startswith(f"No worklet starts: the disk of {disk} is nearly full (")
