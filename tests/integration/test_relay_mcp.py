"""An MCP server behind the relay, used by the official client: as a stdio server, and by the transport."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cutting import CuttingProxy, cutting
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from relay_programs import ENV, FLOW, ROOT, TOKEN, relay
from waiting import until

from worklets.stdiorelay.errors import RelayGone
from worklets.stdiorelay.mcp import relay_client

SERVER = Path(__file__).with_name("mcp_server.py")


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[CuttingProxy]:
    """In front of `flow relay`, with the server behind it."""
    async with relay("--", sys.executable, str(SERVER), str(tmp_path)) as (_, url), cutting(url) as proxy:
        yield proxy


def by_command(url: str) -> Any:
    command, *args = FLOW
    return stdio_client(
        StdioServerParameters(command=command, args=[*args, "connect", url, "--fail-fast"], env=ENV, cwd=ROOT)
    )


def by_transport(url: str) -> Any:
    return relay_client(url, TOKEN, fail_fast=True)


Session = Callable[[str], AbstractAsyncContextManager[ClientSession]]


@pytest.fixture(params=[by_command, by_transport])
def session(request: pytest.FixtureRequest) -> Session:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[ClientSession]:
        async with request.param(url) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            yield session

    return opened


def said(result: Any) -> str:
    assert not result.is_error
    return str(result.content[0].text)


async def test_tools_are_listed_and_called(proxy: CuttingProxy, session: Session) -> None:
    async with session(proxy.url) as mcp:
        assert [tool.name for tool in (await mcp.list_tools()).tools] == ["add", "wait", "die"]
        sums = await asyncio.gather(*(mcp.call_tool("add", {"a": n, "b": 1}) for n in range(20)))
        assert [said(one) for one in sums] == [str(n + 1) for n in range(20)]


async def test_one_session_after_the_other(proxy: CuttingProxy, session: Session) -> None:
    for n in range(2):
        async with session(proxy.url) as mcp:
            assert said(await mcp.call_tool("add", {"a": n, "b": 40})) == str(n + 40)


async def test_a_call_that_was_cut_is_answered_after_the_reconnect(
    proxy: CuttingProxy, session: Session, tmp_path: Path
) -> None:
    async with session(proxy.url) as mcp:
        calling = asyncio.create_task(mcp.call_tool("wait", {}))
        await until((tmp_path / "waiting").exists)
        proxy.open = False
        assert proxy.cut() == 1
        await until(lambda: proxy.refused)  # it found out, and tried again
        with pytest.raises(MCPError, match=r"relay|connection") as refused:  # a new call is answered at once
            await mcp.call_tool("add", {"a": 1, "b": 1})
        assert refused.value.error.data["code"] == "CONNECTION_REFUSED"
        (tmp_path / "go").touch()  # the answer is given while nobody is connected
        assert not calling.done()
        proxy.open = True
        async with asyncio.timeout(60):
            assert said(await calling) == "at last"
        assert (tmp_path / "waiting").read_text() == "x"  # it ran once
        assert said(await mcp.call_tool("add", {"a": 1, "b": 2})) == "3"


async def test_a_server_that_dies_in_mid_call_ends_the_session(proxy: CuttingProxy, session: Session) -> None:
    async with session(proxy.url) as mcp, asyncio.timeout(60):
        with pytest.raises(MCPError, match=r"[Cc]onnection closed"):
            await mcp.call_tool("die", {})


async def test_the_transport_says_at_once_that_it_may_not_come_in(proxy: CuttingProxy) -> None:
    with pytest.raises(RelayGone, match="refuses the token"):
        async with relay_client(proxy.url, "wrong"):
            pass
    with pytest.raises(RelayGone, match="cannot be reached"):
        async with relay_client("ws://127.0.0.1:9/", TOKEN, connect_timeout=0.1):
            pass
