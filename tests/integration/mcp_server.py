"""A small MCP server on stdio: `python mcp_server.py <directory>`.

`wait` answers when the file `go` is in the directory; that it has begun is told by the file `waiting`.
"""

import asyncio
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

directory = Path(sys.argv[1])
server = MCPServer("little")


@server.tool()
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@server.tool()
async def wait() -> str:
    """Waits for the test's sign."""
    with open(directory / "waiting", "a") as file:
        file.write("x")
    while not (directory / "go").exists():
        await asyncio.sleep(0.01)
    return "at last"


@server.tool()
def die() -> None:
    """The process ends in the middle of the call."""
    os._exit(3)


server.run("stdio")
