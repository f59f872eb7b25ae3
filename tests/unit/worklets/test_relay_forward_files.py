"""A worklet that opens more connections than its relay may open files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest
from waiting import until

from worklets.relay.forward import forward


async def test_forwarding_goes_on_when_no_file_could_be_opened(tmp_path: Path) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        address = listener.getsockname()
        forwarding = asyncio.create_task(forward(listener, str(tmp_path / "gateway.sock")))
        clients = [stack.enter_context(socket.socket()) for _ in range(40)]
        for client in clients:
            client.setblocking(False)
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 5, hard))
        try:
            for client in clients:
                await asyncio.get_running_loop().sock_connect(client, address)
            await until(_no_file_is_left, what="the relay to have used them up")
            for client in clients:
                client.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for one in held:
                os.close(one)
        async with await asyncio.start_unix_server(answer, tmp_path / "gateway.sock"):
            reader, writer = await asyncio.open_connection(*address)
            assert await asyncio.wait_for(reader.read(), 30) == b"here"
            writer.close()
        assert not forwarding.done()
        forwarding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forwarding


def _no_file_is_left() -> bool:
    try:
        os.close(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return True
    return False
