"""The exit of Claude's process is the last that a relay tells, and a full disk does not keep the relay for ever."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from worklets.relay.bridge import Bridge
from worklets.relay.journal import Journal, records
from worklets.relay.process import Process
from worklets.relay.relay import Child, outlived


class Disk(Journal):
    """One that takes nothing while it is full."""

    full = False

    def append(self, lines: list[bytes], kind: bytes = b"o") -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().append(lines, kind)


class Connection:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, "epoch")
    yield made
    made.close()


@pytest.fixture
async def bridge(journal: Disk) -> AsyncIterator[Bridge]:
    """To a process that could not be started: its exit is all that there is to say."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = Process(Child(ours, None, "it could not be started"), journal)
        await process.open()
        yield Bridge(process)
        assert process._to_cli is not None
        process._to_cli.close()
        await process._to_cli.wait_closed()


async def test_nothing_is_told_after_the_exit(bridge: Bridge, journal: Disk, tmp_path: Path) -> None:
    connection = Connection()
    await bridge.process.tell({"type": "before"})
    journal.full = True
    late = asyncio.create_task(bridge.process.tell({"type": "late"}))  # it waits for room
    await asyncio.sleep(0)
    journal.full = False
    await bridge.process.run()
    await bridge.process.tell({"type": "after"})
    await late
    assert [kind for kind, _, _ in records(tmp_path, "epoch", 0)] == ["o", "x"]
    owner: Any = connection
    sending = asyncio.create_task(bridge._send(bridge._take_over(owner, 0, 1, refusals=True)))
    await until(lambda: len(connection.sent) == 2, what="the line and the exit")
    sending.cancel()
    told = json.loads(connection.sent[1])
    assert (told["type"], told["seq"]) == ("exit", 2)


async def test_a_relay_that_cannot_write_the_exit_ends_when_it_is_told_to(bridge: Bridge, journal: Disk) -> None:
    stopped = asyncio.Event()
    journal.full = True
    ending = asyncio.create_task(outlived(bridge, stopped, patience=0.05))
    assert not (await asyncio.wait([ending], timeout=0.2))[0], "there may be room again"
    stopped.set()
    assert not await asyncio.wait_for(ending, 30)


async def test_with_room_again_the_exit_is_written(bridge: Bridge, journal: Disk) -> None:
    stopped = asyncio.Event()
    journal.full = True
    ending = asyncio.create_task(outlived(bridge, stopped))
    stopped.set()
    await asyncio.sleep(0)
    journal.full = False
    assert await asyncio.wait_for(ending, 30)
    assert journal.last == 1
