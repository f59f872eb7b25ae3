"""`flow doctor` beside a bot whose gate is at another address than is set: it says so, and leaves that gate alone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import IMAGE, worklet_image
from ports import free_port

from bot.doctor import find
from config.settings import load
from worklets import gateaddress
from worklets.identity import Identity


@pytest.fixture(autouse=True)
def share_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "FLOW_SHARE_DIR": str(tmp_path), "FLOW_IMAGE": IMAGE, "FLOW_RUNTIME": "docker",
        "FLOW_GATE_LISTEN": "127.0.0.1", "FLOW_GATE_ADDRESS": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield tmp_path
    gate = f"flow-gate-{Identity.load(tmp_path).instance}"
    subprocess.run(["docker", "rm", "--force", gate], check=False, capture_output=True)
    subprocess.run(["docker", "volume", "rm", gate], check=False, capture_output=True)


@pytest.mark.docker
async def test_a_gate_at_another_address(share_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await worklet_image()
    here, elsewhere = free_port(), free_port()
    monkeypatch.setenv("FLOW_GATE_PORT", str(here))
    found = await find("engine", load())
    assert (found.state, found.text.endswith(f"the gate answers at 127.0.0.1:{here}")) == ("ok", True), found
    gate = gateaddress.known(share_dir)
    monkeypatch.setenv("FLOW_GATE_PORT", str(elsewhere))
    found = await find("engine", load())
    assert (found.state, found.text.endswith(f"the gate answers at 127.0.0.1:{here}")) == ("warn", True), found
    assert f"127.0.0.1:{elsewhere}, as is set" in found.advice
    assert gateaddress.known(share_dir) == gate
