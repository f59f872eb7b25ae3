"""Flow's own MCP server for PostgreSQL: what a hostile statement gets out of it, with a real database."""

from __future__ import annotations

import asyncio
import io
import json
import re
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures

from worklets.gateway import ModelGateway
from worklets.gatewaysubjects import routes
from worklets.identity import Identity
from worklets.sockets import short_path

pytestmark = pytest.mark.postgres


class Client:
    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        async with self._http.post("/flow/mcp/postgres", json=message) as answer:
            assert answer.status == 200
            found: dict[str, Any] = await answer.json()
            assert found["id"] == 7
            return found

    async def query(self, sql: str) -> tuple[str, bool]:
        found = (await self.ask("tools/call", name="query", arguments={"sql": sql}))["result"]
        return found["content"][0]["text"], found["isError"]


@pytest.fixture
async def client(tmp_path: Path, postgres_dsn: str) -> AsyncIterator[Client]:  # noqa: F811
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("create table shop (id int, name text); insert into shop values (1, 'Ada'), (2, null)")
    await connection.close()
    identity = Identity.load(tmp_path)
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, routes=routes())
    await gateway.open("w", tmp_path, None, {"mcp": {"postgres": {"dsn": postgres_dsn}}})
    headers = {"Authorization": f"Bearer {identity.token('gateway', 'w')}"}
    with short_path(tmp_path, "gateway.sock") as path:
        connector = aiohttp.UnixConnector(path)
        async with aiohttp.ClientSession("http://x", connector=connector, headers=headers) as http:
            yield Client(http)
    await gateway.aclose()


async def test_rows_and_tables(client: Client) -> None:
    assert (await client.ask("initialize", protocolVersion="2025-03-26"))["result"]["protocolVersion"] == "2025-03-26"
    assert [tool["name"] for tool in (await client.ask("tools/list"))["result"]["tools"]] == ["query", "tables"]
    assert await client.query("select * from shop order by id;") == (
        '{"id":1,"name":"Ada"}\n{"id":2,"name":null}', False,
    )  # fmt: skip
    assert await client.query("with x as (select 1 as a) select a from x -- why not") == ('{"a":1}', False)
    found = (await client.ask("tools/call", name="tables"))["result"]["content"][0]["text"]
    assert json.loads(found) == {"table": "public.shop", "columns": "id integer, name text"}
    assert await client.query("select * from shop where false") == ("No rows.", False)
    text, wrong = await client.query("selct 1")
    assert wrong
    assert text == 'PostgresSyntaxError: syntax error at or near "selct"'


HOSTILE = (
    "insert into shop values (3, 'x')",
    "with x as (insert into shop values (3, 'x') returning id) select * from x",
    "commit; drop table shop",
    "select 1; commit; drop table shop; --",
    "rollback",
    "set transaction read write",
    "drop table shop",
    "select 1) q; drop table shop; select * from (select 1",
    "select 1) q union all select repeat('x', 9) --",
    "select 1 /*",
    "select set_config('transaction_read_only', 'off', false), 1; insert into shop values (3, 'x')",
    "select set_config('transaction_read_only', 'off', false)",
    "select nextval('s')",
    "copy shop to '/tmp/x'",
)


async def test_nothing_is_written_and_no_statement_leaves_its_place(client: Client) -> None:
    for sql in HOSTILE:
        text, wrong = await client.query(sql)
        assert wrong, f"{sql}: {text}"
    await client.query("select lo_create(0)")  # older servers do it, read-only or not
    left = "select (select count(*) from shop) as rows, (select count(*) from pg_largeobject_metadata) as objects"
    assert await client.query(left) == ('{"rows":2,"objects":0}', False)


async def test_answers_are_bounded_before_they_leave_the_database(client: Client) -> None:
    text, wrong = await client.query("select repeat('x', 5000000) as x")
    assert not wrong
    assert len(text) < 11_000
    assert text.endswith("… (cut)")
    text, _ = await client.query("select * from generate_series(1, 100000) n")
    assert text.splitlines()[0] == '{"n":1}'
    assert text.endswith('{"n":200}\n(more rows follow)')
    text, _ = await client.query("select repeat('y', 9000) as y from generate_series(1, 100)")
    assert len(text) < 101_000


async def test_what_is_no_message(client: Client) -> None:
    http = client._http
    for body, status in ((b"nonsense", 400), (b"[]", 400), (b"[" * 100_000, 400), (b"x" * (2 << 20), 413)):
        async with http.post("/flow/mcp/postgres", data=io.BytesIO(body)) as answer:
            assert answer.status == status
    async with http.post(
        "/flow/mcp/postgres", json={"jsonrpc": "2.0", "method": "notifications/initialized"}
    ) as answer:
        assert (answer.status, await answer.read()) == (202, b"")
    async with http.get("/flow/mcp/postgres") as answer:
        assert answer.status == 405
    assert (await client.ask("resources/list"))["error"]["code"] == -32601
    assert (await client.ask("tools/call", name="query", arguments={"sql": 3}))["result"]["isError"]
    assert (await client.ask("tools/call", name="other"))["result"]["isError"]


async def test_a_dead_database_is_told_without_its_password(tmp_path: Path) -> None:
    from worklets.mcppostgres import _call

    for dsn in (
        "postgresql://flow:pass%20word@127.0.0.1:9/x",
        "postgresql://flow:passXword@[::bad/x",
        "mysql://u:passXw@h/x",
    ):
        text, wrong = await _call({"name": "tables"}, "w", dsn)
        assert wrong
        assert "Flow cannot connect to the database" in text
        assert not {"pass", "flow", "127.0.0.1"} & set(re.split(r"[^a-z0-9.]+", text))
        assert "passX" not in text


async def test_a_login_that_the_database_refuses_names_no_role(postgres_dsn: str) -> None:  # noqa: F811
    from worklets.mcppostgres import _call

    address = urlsplit(postgres_dsn)
    host = address.netloc.rpartition("@")[2]
    text, wrong = await _call({"name": "tables"}, "w", address._replace(netloc=f"norole:x@{host}").geturl())
    assert wrong
    assert "Flow cannot connect to the database" in text
    assert "norole" not in text
    text, wrong = await _call({"name": "tables"}, "w", address._replace(path="/nodatabase").geturl())
    assert wrong
    assert "Flow cannot connect to the database (InvalidCatalogNameError)" in text
    assert "nodatabase" not in text


async def test_an_error_of_many_megabytes_keeps_nobody_waiting(client: Client) -> None:
    """The driver takes an error in whole: that took the gateway's loop a minute and a half."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.02)
            beats += 1

    async with asyncio.TaskGroup() as group:
        beside = group.create_task(beat())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        text, wrong = await client.query("select ('x' || repeat('y', 60000000))::int")
        beside.cancel()
        assert wrong
        assert len(text) < 2100
        assert beats > 20  # a loop that stands still has none
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 30 << 10  # KiB
    text, wrong = await client.query("select ('x' || repeat('y', 50000))::int")
    assert wrong
    assert text.startswith("InvalidTextRepresentationError: invalid input syntax for type integer")
    assert len(text) < 2100
    assert await client.query("select 1 as a") == ('{"a":1}', False)


async def test_what_is_no_text_is_no_statement(client: Client) -> None:
    assert await client.query("select '\ud800'") == ("The statement is no well-formed text.", True)
    assert await client.query("select 1\0") == ("The statement has a null byte, which no statement can have.", True)


async def test_one_worklet_leaves_room_for_others(client: Client, postgres_dsn: str) -> None:  # noqa: F811
    from worklets.mcppostgres import _call

    holding = await asyncpg.connect(postgres_dsn)
    await holding.execute("select pg_advisory_lock(7)")
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    other = {"name": "query", "arguments": {"sql": "select 1 as a"}}
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(client.query("select pg_advisory_xact_lock(7)::text as s")) for _ in range(8)]
        async with asyncio.timeout(60):
            while await holding.fetchval(waiting) < 2:
                pass
        assert await _call(other, "w-2", postgres_dsn) == ('{"a":1}', False)
        assert await holding.fetchval(waiting) == 2
        await holding.close()
    answers = [one.result() for one in slow]
    assert answers.count(('{"s":""}', False)) >= 2
    assert all(wrong is ("Try again in a moment" in text) for text, wrong in answers)
