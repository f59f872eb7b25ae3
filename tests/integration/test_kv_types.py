"""`flow types`: what it writes is what PostgreSQL has, and what every backend answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import supabaselite
from postgres import postgres_server  # noqa: F401 - fixture
from typescript import compiler

from bot import kvtypes
from bot.cli import main
from kvstore.gateway.backend import Backend
from kvstore.gateway.callers import Caller
from kvstore.gateway.functions import FUNCTIONS, validated
from kvstore.gateway.postgres import PostgresAdmin, PostgresBackend
from kvstore.gateway.sqlite import SqliteStore
from migrations.kvschema import SchemaUnreadable, from_database, from_files
from migrations.kvupgrade import upgrade_kv

WORKLET, OWNER = str(uuid.uuid4()), str(uuid.uuid4())


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def address(request: pytest.FixtureRequest) -> str | None:
    """Of a cluster; None for SQLite."""
    return str(request.getfixturevalue("postgres_server")) if request.param == "postgres" else None


@pytest.fixture
async def backend(address: str | None, tmp_path: Path) -> AsyncIterator[Backend]:
    store: Any
    if address is None:
        store = admin = SqliteStore(tmp_path / "kv.sqlite", max_keys=100, max_bytes=1 << 20)
    else:
        dsn = await _database(address)
        await upgrade_kv(dsn)
        store, admin = PostgresBackend(dsn.replace("://flow@", "://authenticator@")), PostgresAdmin(dsn)
    await admin.register(WORKLET, OWNER, "a prototype", max_keys=100, max_bytes=1 << 20)
    await store.open()
    yield store
    await admin.close()
    await store.close()


async def _database(address: str) -> str:
    name = f"types_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(f"{address}/postgres")
    try:
        await connection.execute(f"create database {name}")
    finally:
        await connection.close()
    return f"{address}/{name}"


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("postgres_server"))


def fits(kind: str, value: Any) -> bool:
    """Whether JSON is of that kind, member by member and nothing more."""
    if kind.endswith(")[]"):
        return isinstance(value, list) and all(fits(kind[1:-3], one) for one in value)
    if " | " in kind:
        return any(fits(part, value) for part in kind.split(" | "))
    if kind.endswith("[]"):
        return isinstance(value, list) and all(fits(kind[:-2], one) for one in value)
    if kind in kvtypes.RECORDS:
        members = kvtypes.RECORDS[kind]
        names = {name.rstrip("?"): part for name, part in members.items()}
        must = {name for name in members if not name.endswith("?")}
        return (
            isinstance(value, dict)
            and must <= value.keys() <= names.keys()
            and all(fits(names[name], one) for name, one in value.items())
        )
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kinds: Mapping[str, bool] = {
        "json": True,
        "text": isinstance(value, str),
        "integer": is_number and isinstance(value, int),
        "number": is_number,
        "boolean": isinstance(value, bool),
        "true": value is True,
        "false": value is False,
        "null": value is None,
    }
    return kinds[kind]


async def test_every_answer_is_of_the_type_that_is_written(backend: Backend) -> None:
    said: dict[str, list[Any]] = {name: [] for name in FUNCTIONS}

    async def call(name: str, **arguments: Any) -> Any:
        checked = validated(name, {f"p_{key}": value for key, value in arguments.items()})
        checked.pop("p_wait", None)
        answer = json.loads(await backend.call(Caller.of_worklet(WORKLET), name, checked))
        said[name].append(answer)
        return answer

    await call("kv_stats")
    await call("kv_get", namespace="default", key="a")
    await call("kv_set", namespace="default", key="a", value='{"x": [1, null]}', ttl=60)
    await call("kv_set", namespace="default", key="a", value="2", only_if_absent=True)
    await call("kv_get", namespace="default", key="a")
    await call("kv_has", namespace="default", key="a")
    await call("kv_mset", namespace="default", entries='{"b": null, "c": "x"}')
    await call("kv_mget", namespace="default", keys=["a", "b", "nothing"])
    await call("kv_list", namespace="default", limit=1)
    await call("kv_list", namespace="default", values=True)
    await call("kv_list_namespaces")
    await call("kv_increment", namespace="default", key="n")
    await call("kv_increment", namespace="default", key="n", delta=0.5)
    await call("kv_append", namespace="default", key="c", value='"y"')
    operations = [{"op": "check", "key": "d", "version": None}, {"op": "set", "key": "d", "value": 1}]
    operations += [{"op": one, "key": "d"} for one in ("get", "increment", "delete")]
    operations += [{"op": "append", "key": "l", "value": 1}]
    await call("kv_transaction", operations=json.dumps(operations))
    await call("kv_transaction", operations='[{"op": "check", "key": "a", "version": 999999}]')
    await call("kv_delete", namespace="default", keys=["b"])
    cursor = (await call("kv_watch"))["cursor"]
    await call("kv_watch", cursor="0")
    await call("kv_delete", namespace="default", keys=["a"])
    (deleted,) = (await call("kv_watch", cursor=cursor))["changes"]
    assert deleted["deleted"]
    await call("kv_clear", namespace="default")
    await call("kv_stats")
    for name, answers in said.items():
        assert answers, name
        assert [answer for answer in answers if not fits(kvtypes.ANSWERS[name], answer)] == [], name
    # No alternative and no member is written that never comes.
    assert {type(answer) for answer in said["kv_get"]} == {type(None), dict}
    assert {answer["committed"] for answer in said["kv_transaction"]} == {True, False}


@pytest.mark.postgres
async def test_the_files_say_what_postgresql_has(cluster: str) -> None:
    dsn = await _database(cluster)
    await upgrade_kv(dsn)
    schema = await from_database(dsn)
    assert schema == from_files()
    assert {"worklets", "worklet_kv_store"} <= schema.tables.keys()
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "alter table public.worklets add column plan text default 'free', add column notes jsonb;"
            "grant update (plan) on public.worklets to authenticated;"
        )
    finally:
        await connection.close()
    changed = kvtypes.python(await from_database(dsn))
    row, insert, update = (
        changed.split(f"class Worklets{part}(TypedDict):")[1].split("\n\n")[0] for part in ("Row", "Insert", "Update")
    )
    assert "    plan: str | None" in row
    assert "    notes: Json | None" in row
    assert ("plan" in insert, "plan" in update, "notes" in update) == (False, True, False)


@pytest.mark.postgres
async def test_a_database_without_the_store_is_told(cluster: str) -> None:
    with pytest.raises(SchemaUnreadable, match="has no table worklet"):
        await from_database(await _database(cluster))
    with pytest.raises(SchemaUnreadable, match="cannot be read"):
        await from_database("postgresql://127.0.0.1:1/none")


def test_functions_of_the_wire_protocol_are_those_of_the_migrations() -> None:
    schema = from_files()
    for name, function in FUNCTIONS.items():
        found = schema.functions[name]
        assert [argument.name for argument in found.arguments] == [argument.name for argument in function.arguments]
    answered_in_json = {name for name, function in schema.functions.items() if function.returns in ("json", "jsonb")}
    assert answered_in_json <= kvtypes.ANSWERS.keys() <= schema.functions.keys()


def test_python_models_check_what_is_written_against_them(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(kvtypes.python(from_files()))
    (tmp_path / "use.py").write_text(
        "from models import Committed, Conflict, KvGetAnswer, KvSetArguments, WorkletKvStoreInsert\n"
        "row: WorkletKvStoreInsert = {'worklet_id': 'w', 'key': 'k', 'value': {'a': [1, None]}}\n"
        "args: KvSetArguments = {'p_namespace': 'n', 'p_key': 'k', 'p_value': '1', 'p_ttl': None}\n"
        "def number(answer: KvGetAnswer) -> int:\n    return answer['version'] if answer is not None else 0\n"
        "def of(done: Committed | Conflict) -> int:\n"
        "    return len(done['results']) if done['committed'] else done['failed']\n"
        "wrong: WorkletKvStoreInsert = {'worklet_id': 'w', 'key': 'k', 'value': 1, 'version': 3}\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert re.findall(r"use\.py:(\d+): error: Extra key", done.stdout) == ["8"], done.stdout
    assert "Found 1 error" in done.stdout


@pytest.mark.node
def test_typescript_models_check_what_is_written_against_them(tmp_path: Path) -> None:
    (tmp_path / "models.ts").write_text(kvtypes.typescript(from_files()))
    (tmp_path / "use.ts").write_text(
        "import type { Committed, Conflict, Database } from './models.js';\n"
        "type Store = Database['public']['Tables']['worklet_kv_store'];\n"
        "export const row: Store['Insert'] = { worklet_id: 'w', key: 'k', value: { a: [1, null] } };\n"
        "type Get = Database['public']['Functions']['kv_get'];\n"
        "export const args: Get['Args'] = { p_namespace: 'n', p_key: 'k' };\n"
        "export const version = (answer: Get['Returns']): number => answer?.version ?? 0;\n"
        "export const of = (d: Committed | Conflict): number => d.committed ? d.results.length : d.failed;\n"
        "export const wrong: Store['Insert'] = { worklet_id: 'w', key: 'k', value: 1, version: 3 };\n"
    )
    command = [compiler(), "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "use.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert re.findall(r"use\.ts\((\d+),\d+\): error", done.stdout) == ["8"], done.stdout


@pytest.mark.node
def test_supabases_own_client_takes_the_models(tmp_path: Path) -> None:
    supabaselite.install()
    (tmp_path / "node_modules").symlink_to(supabaselite.PROGRAMS)
    (tmp_path / "database.types.ts").write_text(kvtypes.typescript(from_files()))
    (tmp_path / "use.ts").write_text(
        "import { createClient } from '@supabase/supabase-js';\n"
        "import type { Database } from './database.types.js';\n"
        "const client = createClient<Database>('http://localhost', 'key');\n"
        "const got = await client.rpc('kv_get', { p_namespace: 'a', p_key: 'b' });\n"
        "export const version: number | undefined = got.data?.version;\n"
        "const rows = await client.from('worklet_kv_store').select('key, worklets(name)');\n"
        "export const name: string | undefined = rows.data?.[0]?.worklets.name;\n"
        "await client.from('worklet_kv_store').insert({ worklet_id: 'w', key: 'k', value: { a: 1 } });\n"
        "await client.from('worklet_kv_store').insert({ worklet_id: 'w', key: 'k', value: 1, version: 3 });\n"
        "await client.rpc('kv_get', { p_namespace: 'a' });\n"
    )
    (tmp_path / "package.json").write_text('{"type": "module"}')
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
    command = [compiler(), *options, "use.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert re.findall(r"use\.ts\((\d+),\d+\): error", done.stdout) == ["9", "10"], done.stdout


def test_the_command_writes_either_language(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["types"]) == 0
    assert capsys.readouterr().out == kvtypes.python(from_files())
    assert main(["types", "--lang", "typescript", "--output", "database.types.ts"]) == 0
    assert Path("database.types.ts").read_text() == kvtypes.typescript(from_files())
    assert main(["types", "--output", "no/where.py"]) == 1
    assert "no/where.py cannot be written" in capsys.readouterr().err
