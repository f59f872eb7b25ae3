"""Several Flows on one share directory keep one gate, on an engine that is made up: its containers are processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from waiting import until

from worklets import gateaddress
from worklets.errors import RuntimeUnavailable
from worklets.gateclient import GateAway
from worklets.remotegate import RemoteGate

PROGRAM = """
import asyncio, json, socket, sys
from pathlib import Path
from worklets.gate.gate import context, run
told = json.load(sys.stdin)["config"]
listening = socket.create_server(("127.0.0.1", int(sys.argv[2])))
asyncio.run(run(Path(sys.argv[1]), told["version"], listening, context(told["identity"], told["trusted"])))
"""


class Machine:
    """Docker's client and Flow's way to it at once, as far as a gate needs them."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.made, self.broken = 0, False
        self._process: subprocess.Popen[bytes] | None = None
        self.api = self.images = self
        self.id = "sha256:image"

    async def call(self, _pool: str, work: Callable[[Any], Any], **_: Any) -> Any:
        return await asyncio.to_thread(work, self)

    def create_volume(self, _name: str, **_: Any) -> dict[str, Any]:
        return {"Mountpoint": str(self.root)}

    def get(self, _image: str) -> Machine:
        return self

    def remove_container(self, _name: str, **_: Any) -> None:
        self.end()

    def create_container_from_config(self, _config: dict[str, Any], **_: Any) -> dict[str, str]:
        if self.broken:
            raise RuntimeUnavailable("The engine makes no container.")
        self.made += 1
        return {"Id": f"c{self.made}"}

    def attach_socket(self, _id: str, **_: Any) -> Machine:
        return self

    def start(self, _id: str) -> None: ...

    def sendall(self, data: bytes) -> None:
        command = [sys.executable, "-c", PROGRAM, str(self.root), str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(data.partition(b"\n")[2])

    def close(self) -> None: ...

    def inspect_container(self, _id: str) -> dict[str, Any]:
        return {"State": {"Running": self._process is not None and self._process.poll() is None}}

    def logs(self, _id: str, **_: Any) -> bytes:
        return b"nothing"

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def flow(machine: Machine, share_dir: Path, version: str) -> RemoteGate:
    """`version` changes what the gate's container is made of, as another Flow's code does."""
    engine: Any = machine
    return RemoteGate(
        share_dir, engine, "one", "image", host="127.0.0.1", port=machine.port, listen=(version, machine.port)
    )


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path / "root")
    yield made
    made.broken = True
    await asyncio.to_thread(made.end)


async def test_two_versions_do_not_take_the_gate_from_each_other(machine: Machine, tmp_path: Path) -> None:
    share_dir = tmp_path / "data"
    older, newer = flow(machine, share_dir, "0.0.0.1"), flow(machine, share_dir, "0.0.0.2")
    await asyncio.gather(older.ready(), older.ready())
    assert machine.made == 1
    doctor = flow(machine, share_dir, "0.0.0.3")
    await doctor.ready(replace=False)
    await doctor.aclose()
    assert machine.made == 1, "the doctor leaves it alone"
    await newer.ready()
    assert machine.made == 2
    version = gateaddress.known(share_dir).version  # type: ignore[union-attr]
    for _ in range(3):
        older.look()
        newer.look()
        for one in (older, newer):
            assert await one.ready() == tmp_path / "root" / "worklets"
            stream = await one.way.open()
            assert (await one.way.ask(stream, do="ping"))["version"] == version
            stream[1].close()
    assert machine.made == 2, "each brings its own once"
    await older.aclose()
    await newer.aclose()


async def test_a_lost_gate_is_made_again_or_said_to_be_away(machine: Machine, tmp_path: Path) -> None:
    one = flow(machine, tmp_path / "data", "0.0.0.1")
    await one.ready()
    machine.broken = True
    await asyncio.to_thread(machine.end)
    with pytest.raises(GateAway):
        await one.way.open()

    async def is_told() -> bool:
        try:
            await one.ready()
        except RuntimeUnavailable:
            return True
        return False

    await until(is_told, what="the loss to be told")
    await one.kept()
    machine.broken = False
    assert await one.ready() == tmp_path / "root" / "worklets"
    await one.aclose()


def test_a_gate_that_is_away_is_an_engine_that_is_away() -> None:
    """So a turn waits for it as for the engine."""
    assert issubclass(GateAway, RuntimeUnavailable)
    assert "doctor" in GateAway().suggestion
