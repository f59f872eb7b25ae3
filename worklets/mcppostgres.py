"""An MCP server of Flow's own for PostgreSQL: one statement that reads, and the tables that there are.

It runs in the gateway, so that the database's password stays there. Each call has a connection of its own, in a
read-only transaction that is rolled back; what the role may read is the database's to say. A statement is prepared by
itself first: so it is one whole statement, and cannot leave the parentheses around it, which keep a row's size bounded
before it leaves the database. What the database sends is read in a process of its own (`worklets.mcpquery`): an error's
text has any length.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worklets.mcpdoor import Body, TooLong
from worklets.mcpquery import CONNECT, ROWS

if TYPE_CHECKING:
    from aiohttp import web

log = structlog.get_logger(__name__)

_LONGEST = 1 << 20  # bytes of a message
_ANSWER = 1 << 20  # bytes of what the process says: 100,000 characters as JSON
_SECONDS = 30.0
_AT_ONCE = 8  # of one database, whoever asks: connections are dear
_OF_ONE = 2  # of one database, for one worklet: so it starves nobody
_PATIENCE = 10.0  # seconds that a query waits for its turn
_VERSIONS = ("2025-06-18", "2025-03-26", "2024-11-05")

_QUERY = (
    "Runs one SELECT (or WITH, VALUES, TABLE) and gives its rows, each as JSON on a line of its own. "
    f"Read only; at most {ROWS} rows, {_SECONDS:.0f} seconds."
)
_TOOLS = [
    {
        "name": "query",
        "description": _QUERY,
        "inputSchema": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "tables",
        "description": "The tables and views that can be read, with their columns and types.",
        "inputSchema": {"type": "object", "properties": {}},
        "annotations": {"readOnlyHint": True},
    },
]
_TABLES = """\
select table_schema || '.' || table_name as "table", string_agg(column_name || ' ' || data_type, ', '
       order by ordinal_position) as columns
from information_schema.columns where table_schema not in ('pg_catalog', 'information_schema')
group by table_schema, table_name order by 1"""


_CODE = Path(__file__).resolve().parent.parent

_running: Counter[tuple[str, ...]] = Counter()  # by database, and by database and worklet
_waiting: set[asyncio.Event] = set()


async def answer(request: web.BaseRequest, body: Body, worklet: str, dsn: str) -> web.Response:
    """Streamable HTTP without sessions and without a stream of the server's own: each POST has its answer."""
    from aiohttp import web

    if request.method != "POST":
        return web.Response(status=405, headers={"Allow": "POST"})
    body.longest, said = _LONGEST, bytearray()
    try:
        async for chunk in body.pieces():
            said += chunk
    except TooLong:
        return web.Response(status=413)
    try:
        message = json.loads(said)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        return web.json_response(_error(None, -32700, "This is no JSON-RPC message."), status=400)
    if "id" not in message or "method" not in message:
        return web.Response(status=202)  # a notification
    return web.json_response(await _reply(message, worklet, dsn))


async def _reply(message: dict[str, Any], worklet: str, dsn: str) -> dict[str, Any]:
    params = message.get("params")
    params = params if isinstance(params, dict) else {}
    match message["method"]:
        case "initialize":
            wanted = params.get("protocolVersion")
            result: dict[str, Any] = {
                "protocolVersion": wanted if wanted in _VERSIONS else _VERSIONS[0],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "postgres", "version": "1"},
            }
        case "ping":
            result = {}
        case "tools/list":
            result = {"tools": _TOOLS}
        case "tools/call":
            text, wrong = await _call(params, worklet, dsn)
            result = {"content": [{"type": "text", "text": text}], "isError": wrong}
        case _:
            return _error(message["id"], -32601, "Method not found.")
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


async def _call(params: dict[str, Any], worklet: str, dsn: str) -> tuple[str, bool]:
    """What the tool says, and whether it is an error."""
    arguments = params.get("arguments")
    sql = arguments.get("sql") if isinstance(arguments, dict) else None
    if params.get("name") == "tables":
        sql = _TABLES
    elif params.get("name") != "query" or not isinstance(sql, str):
        return "There are the tools query, with sql, and tables.", True
    try:
        sql.encode()
    except UnicodeEncodeError:
        return "The statement is no well-formed text.", True
    if "\0" in sql:
        return "The statement has a null byte, which no statement can have.", True
    try:
        async with _turn(worklet, dsn):
            return await _run({"dsn": dsn, "sql": sql, "seconds": _SECONDS})
    except _Busy:
        return f"Others are asking the database, or {_OF_ONE} queries of yours are. Try again in a moment.", True
    except TimeoutError:
        return "The database did not answer in time.", True


class _Busy(Exception):
    """No turn came."""


@asynccontextmanager
async def _turn(worklet: str, dsn: str) -> AsyncIterator[None]:
    """Raises _Busy after some patience."""
    until = asyncio.get_running_loop().time() + _PATIENCE
    while _running[dsn,] >= _AT_ONCE or _running[dsn, worklet] >= _OF_ONE:
        event = asyncio.Event()
        _waiting.add(event)
        try:
            async with asyncio.timeout_at(until):
                await event.wait()
        except TimeoutError:
            raise _Busy from None
        finally:
            _waiting.discard(event)
    mine = ((dsn,), (dsn, worklet))
    _running.update(mine)
    try:
        yield
    finally:
        _running.subtract(mine)
        for key in mine:
            if not _running[key]:
                del _running[key]
        for event in _waiting:
            event.set()


async def _run(asked: dict[str, Any]) -> tuple[str, bool]:
    """By a process of its own, which is gone afterwards. Raises TimeoutError."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worklets.mcpquery",
        stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, cwd=_CODE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(CONNECT + _SECONDS + 5):
            process.stdin.write(json.dumps(asked).encode())
            process.stdin.close()
            said = bytearray()
            while len(said) <= _ANSWER and (piece := await process.stdout.read(1 << 16)):
                said += piece
            found = json.loads(said)
            return str(found["text"]), bool(found["wrong"])
    except (ValueError, OSError):  # out of memory, or of its processor's time
        log.warning("a query ended its process", code=process.returncode)
        return "The database's answer is larger than Flow takes. Ask for less.", True
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def _error(id_: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message}}
