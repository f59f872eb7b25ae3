"""`flow kv` on PostgreSQL: the same words as on SQLite, and what is missing said in a sentence."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import asyncpg
import pytest
import supabaselite
from ports import free_port
from postgres import postgres_server  # noqa: F401 - fixture

from bot.cli import main
from kvstore.gateway.postgres import PostgresAdmin

pytestmark = pytest.mark.postgres
WORKLET = str(uuid.uuid4())


class World:
    def __init__(self, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.owner = f"{address}/command_{uuid.uuid4().hex}"
        self._capsys, self._monkeypatch = capsys, monkeypatch
        asyncio.run(self._make(address))
        self.set("FLOW_KV_DSN", self.owner.replace("://flow@", "://authenticator@"))
        self.set("FLOW_KV_ADMIN_DSN", self.owner)

    async def _make(self, address: str) -> None:
        connection = await asyncpg.connect(f"{address}/postgres")
        try:
            await connection.execute(f"create database {self.owner.rpartition('/')[2]}")
        finally:
            await connection.close()

    def set(self, name: str, value: str) -> None:
        self._monkeypatch.setenv(name, value)

    def register(self) -> None:
        async def work() -> None:
            admin = PostgresAdmin(self.owner)
            await admin.register(WORKLET, str(uuid.uuid4()), "a prototype", max_keys=None, max_bytes=None)
            await admin.close()

        asyncio.run(work())

    def flow(self, *words: str, code: int = 0) -> str:
        done = main(words)
        shown = self._capsys.readouterr()
        assert done == code, shown.err
        return shown.err if code else shown.out


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> World:
    monkeypatch.chdir(tmp_path)
    return World(str(request.getfixturevalue("postgres_server")), monkeypatch, capsys)


def test_a_store_is_used_looked_at_and_copied(world: World) -> None:
    at = ("--worklet", WORKLET)
    for words in (["stats", *at], ["worklets"]):
        assert "flow db upgrade --kv" in world.flow("kv", *words, code=1)
    world.flow("db", "upgrade", "--kv")
    assert world.flow("kv", "worklets") == "no worklet has a store yet\n"
    assert "has no store yet" in world.flow("kv", "stats", *at, code=1)
    world.register()
    assert "a prototype" in world.flow("kv", "worklets")
    lines = [{"namespace": f"n{n % 2}", "key": f"k{n:04}", "value": {"n": n}} for n in range(1200)]
    Path("in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert world.flow("kv", "import", "in.jsonl", *at) == "wrote 1,200 entries\n"
    world.flow("kv", "export", "--output", "out.jsonl", *at)
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    wanted = sorted(lines, key=lambda line: (line["namespace"], line["key"]))
    assert [{k: entry[k] for k in ("namespace", "key", "value")} for entry in found] == wanted
    assert world.flow("kv", "get", "k0003", "--namespace", "n1", "--worklet", WORKLET[:8]) == '{"n": 3}\n'
    stats = json.loads(world.flow("kv", "stats", "--json", *at))
    assert (stats["keys"], stats["namespaces"]) == (1200, 2)
    assert world.flow("kv", "clear", "--all", *at) == "deleted 1,200 entries\n"


def test_a_login_that_owns_nothing_still_reads_a_store_by_its_whole_id(world: World) -> None:
    world.flow("db", "upgrade", "--kv")
    world.register()
    world.set("FLOW_KV_ADMIN_DSN", "")
    assert "keys         0 of" in world.flow("kv", "stats", "--worklet", WORKLET)
    assert "FLOW_KV_ADMIN_DSN" in world.flow("kv", "worklets", code=1)
    assert "No session begins with" in world.flow("kv", "stats", "--worklet", WORKLET[:8], code=1)


def test_a_database_that_is_away_is_one_sentence(world: World) -> None:
    away = f"postgresql://nobody:secret-of-mine@127.0.0.1:{free_port()}/none"
    world.set("FLOW_KV_DSN", away)
    world.set("FLOW_KV_ADMIN_DSN", away)
    for words in (["kv", "stats", "--worklet", WORKLET], ["kv", "worklets"], ["db", "upgrade", "--kv"]):
        told = world.flow(*words, code=1)
        assert told.count("\n") == 1
        assert "reached" in told
        assert "secret-of-mine" not in told


@pytest.mark.node
def test_a_supabase_project_is_reached_by_its_api(world: World) -> None:
    world.flow("db", "upgrade", "--kv")
    world.set("FLOW_KV_DSN", "")
    world.set("FLOW_KV_ADMIN_DSN", "")
    at = ("--worklet", WORKLET)
    with supabaselite.running(world.owner) as lite:
        world.set("SUPABASE_URL", lite.url)
        assert "SUPABASE_ANON_KEY" in world.flow("kv", "stats", *at, code=1)
        world.set("SUPABASE_ANON_KEY", lite.publishable_key)
        assert "SUPABASE_SERVICE_ROLE_KEY" in world.flow("kv", "worklets", code=1)
        world.set("SUPABASE_SERVICE_ROLE_KEY", lite.secret_key)
        told = world.flow("kv", "stats", *at, code=1)  # it was never told of Flow's own key
        assert "does not trust Flow's tokens" in told
        world.set("FLOW_KV_JWT_SECRET", lite.jwt_secret)
        assert "has no store yet" in world.flow("kv", "stats", *at, code=1)
        world.register()
        assert "a prototype" in world.flow("kv", "worklets")
        world.flow("kv", "set", "theme", '"dark"', *at)
        assert world.flow("kv", "get", "theme", "--worklet", WORKLET[:8]) == '"dark"\n'
        world.flow("kv", "export", "--output", "out.jsonl", *at)
        assert world.flow("kv", "import", "out.jsonl", *at) == "wrote 1 entry\n"
        assert "backend      supabase" in world.flow("kv", "stats", *at)
    told = world.flow("kv", "stats", *at, code=1)
    assert told.count("\n") == 1
    for secret in (lite.publishable_key, lite.secret_key, lite.jwt_secret):
        assert secret not in told
