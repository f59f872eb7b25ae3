"""The store in PostgreSQL: its upgrade, its backend when the server is away or refuses, its administration."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import kvwalls
import pytest
from postgres import Cluster, postgres_dsn, postgres_server, programs  # noqa: F401 - fixtures

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.postgres import PostgresAdmin, PostgresBackend
from migrations import kvupgrade
from migrations.kvupgrade import KVUpgradeFailed, files, upgrade_kv

pytestmark = pytest.mark.postgres

Part = TypeVar("Part", PostgresBackend, PostgresAdmin)


@pytest.fixture(scope="module")
def owned(postgres_server: str) -> tuple[str, str]:  # noqa: F811
    """The DSNs of a superuser and of the owner."""
    return asyncio.run(kvwalls.make_owned_database(postgres_server))


@pytest.fixture
async def admin(owned: tuple[str, str]) -> AsyncIterator[PostgresAdmin]:
    admin = PostgresAdmin(owned[1])
    yield admin
    await admin.close()


@pytest.fixture
async def backend(owned: tuple[str, str]) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(login(owned[0]), timeout=60.0)  # no test of these waits for it
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
async def worklet(admin: PostgresAdmin) -> Caller:
    worklet = str(uuid.uuid4())
    await admin.register(worklet, str(uuid.uuid4()), "", max_keys=None, max_bytes=None)
    return Caller.of_worklet(worklet)


@asynccontextmanager
async def closing(part: Part) -> AsyncIterator[Part]:
    try:
        yield part
    finally:
        await part.close()


def login(dsn: str) -> str:
    return dsn.replace("://flow@", "://authenticator@")


async def call(backend: PostgresBackend, caller: Caller, function: str, **arguments: Any) -> Any:
    body = {f"p_{name}": value for name, value in arguments.items()}
    checked = validated(function, body)
    checked.pop("p_wait", None)
    return json.loads(await backend.call(caller, function, checked))


async def run(dsn: str, *statements: str) -> Any:
    """Of the last statement the first value."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def test_two_upgrades_at_once_apply_each_file_once(postgres_dsn: str) -> None:  # noqa: F811
    names = [path.name for _, _, path in files()]
    first, second = await asyncio.gather(upgrade_kv(postgres_dsn), upgrade_kv(postgres_dsn))
    assert sorted([first, second]) == [[], ["plain_postgres.sql", *names]]
    assert await upgrade_kv(postgres_dsn) == []
    # As the Supabase CLI keeps it.
    history = "select array_agg(version || ' ' || name order by version) from supabase_migrations.schema_migrations"
    assert await run(postgres_dsn, history) == [f"{version} {name}" for version, name, _ in files()]


async def test_an_upgrade_that_waits_too_long_for_another_says_so(postgres_dsn: str) -> None:  # noqa: F811
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute(f"select pg_advisory_lock({kvupgrade._ADVISORY_LOCK})")
    with pytest.raises(KVUpgradeFailed, match="Another upgrade"):
        await upgrade_kv(postgres_dsn, patience=0.1)
    await connection.close()
    assert await upgrade_kv(postgres_dsn)


async def test_an_upgrade_leaves_a_projects_own_functions_alone(postgres_dsn: str) -> None:  # noqa: F811
    function = "create function {}() returns text language sql security definer as $$ select 'x' $$"
    rights = "select array_agg(proacl::text order by proname) from pg_proc where proname in ('kv_purge_all', 'secret')"
    before = await run(
        postgres_dsn, "create schema private", function.format("public.kv_purge_all"),
        function.format("private.secret"), "revoke all on function public.kv_purge_all() from public",
        "grant execute on function private.secret() to public", rights,
    )  # fmt: skip
    await upgrade_kv(postgres_dsn)
    assert await run(postgres_dsn, rights) == before


async def test_what_the_supabase_cli_applied_is_not_applied_again(postgres_dsn: str) -> None:  # noqa: F811
    await upgrade_kv(postgres_dsn)
    await run(
        postgres_dsn, "drop schema supabase_migrations cascade", "create schema supabase_migrations",
        "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text)",
        *[f"insert into supabase_migrations.schema_migrations values ('{v}', '{{}}', '')" for v, _, _ in files()],
    )  # fmt: skip
    assert await upgrade_kv(postgres_dsn) == []


async def test_an_upgrade_that_fails_leaves_nothing(postgres_dsn: str) -> None:  # noqa: F811
    await run(postgres_dsn, "create table public.worklet_kv_store (mine int)")
    with pytest.raises(KVUpgradeFailed, match=r"001_worklet_kv_store\.sql could not be applied"):
        await upgrade_kv(postgres_dsn)
    assert await run(postgres_dsn, "select to_regclass('public.worklets')") is None
    await run(postgres_dsn, "drop table public.worklet_kv_store")
    assert await upgrade_kv(postgres_dsn) == [path.name for _, _, path in files()]


async def test_an_upgrade_without_a_server_says_so() -> None:
    with pytest.raises(KVUpgradeFailed, match="cannot be reached"):
        await upgrade_kv("postgresql://flow@127.0.0.1:1/none")


async def test_a_database_without_the_migration_says_what_to_do(postgres_dsn: str) -> None:  # noqa: F811
    async with closing(PostgresBackend(postgres_dsn)) as backend, closing(PostgresAdmin(postgres_dsn)) as admin:
        for part in (backend.open(), admin.sweep()):
            with pytest.raises(Refusal, match=r"flow db upgrade --kv") as refused:
                await part
            assert refused.value.status == 503


@pytest.mark.parametrize(("revision", "words"), [(0, "older than this Flow"), (99, "a newer Flow")])
async def test_another_revision_of_the_schema_is_refused(postgres_dsn: str, revision: int, words: str) -> None:  # noqa: F811
    await upgrade_kv(postgres_dsn)
    await run(
        postgres_dsn,
        "create or replace function private.kv_revision() returns integer language sql immutable set search_path = ''"
        f" as 'select {revision}'",
    )
    async with closing(PostgresBackend(postgres_dsn)) as backend:
        with pytest.raises(Refusal, match=words):
            await backend.open()


async def test_a_login_without_rights_says_what_to_do(owned: tuple[str, str]) -> None:
    await run(owned[0], "do $$ begin create role stranger login; exception when duplicate_object then null; end $$")
    stranger = owned[0].replace("://flow@", "://stranger@")
    async with closing(PostgresBackend(stranger)) as backend:
        with pytest.raises(Refusal, match="authenticator"):
            await backend.open()
    # The gateway's login is no administrator's.
    async with closing(PostgresAdmin(login(owned[0]))) as admin:
        with pytest.raises(Refusal, match="FLOW_KV_ADMIN_DSN"):
            await admin.sweep()


async def test_the_owners_login_alone_is_enough(owned: tuple[str, str], worklet: Caller) -> None:
    backend = PostgresBackend(owned[1])
    await backend.open()
    assert await call(backend, worklet, "kv_set", namespace="n", key="k", value="1")
    assert (await call(backend, worklet, "kv_stats"))["keys"] == 1
    with pytest.raises(Refusal, match="may not use"):
        await call(backend, worklet, "kv_stats", worklet_id=str(uuid.uuid4()))
    await backend.close()


async def test_a_server_that_restarts_is_found_again() -> None:
    if programs() is None:
        pytest.skip("PostgreSQL's server programs are missing: make provision")
    cluster = Cluster()
    try:
        cluster.make()
        await cluster.start()
        dsn = await cluster.make_database()
        await upgrade_kv(dsn)
        backend, admin = PostgresBackend(dsn, timeout=60.0), PostgresAdmin(dsn, timeout=60.0)
        caller = Caller.of_worklet(str(uuid.uuid4()))
        await admin.register(str(caller.worklet_id), str(uuid.uuid4()), "", max_keys=None, max_bytes=None)
        await asyncio.gather(*(call(backend, caller, "kv_increment", namespace="n", key="k") for _ in range(20)))
        await asyncio.to_thread(cluster.stop)
        start = time.monotonic()
        for part in (call(backend, caller, "kv_get", namespace="n", key="k"), backend.check(), admin.sweep()):
            with pytest.raises(Refusal) as refused:
                await part
            assert (refused.value.status, refused.value.code) == (503, "PGRST000")
        assert time.monotonic() - start < 60, "nobody waited for a server that is not there"
        await cluster.start()
        assert (await call(backend, caller, "kv_get", namespace="n", key="k"))["value"] == 20
        assert await admin.sweep() == 0
        await backend.close()
        await admin.close()
    finally:
        await asyncio.to_thread(cluster.remove)


async def test_a_silent_server_is_given_up() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    backend = PostgresBackend(f"postgresql://flow@127.0.0.1:{port}/x?sslmode=disable", timeout=0.3)
    with pytest.raises(Refusal, match="in time") as refused:
        await backend.check()
    assert refused.value.status == 503
    await backend.close()
    server.close()
    await server.wait_closed()


async def test_a_call_that_waits_too_long_is_given_up_and_the_pool_stays_whole(
    owned: tuple[str, str], admin: PostgresAdmin, worklet: Caller
) -> None:
    backend = PostgresBackend(login(owned[0]), size=1, timeout=2.5)
    await backend.open()
    connection = await asyncpg.connect(owned[0])
    async with connection.transaction():
        await connection.execute("select from private.kv_usage where worklet_id = $1 for update", worklet.worklet_id)
        with pytest.raises(Refusal, match="in time"):
            await call(backend, worklet, "kv_set", namespace="n", key="k", value="1")
        # Readers do not wait for writers.
        assert await call(backend, worklet, "kv_get", namespace="n", key="k") is None
    await connection.close()
    assert await call(backend, worklet, "kv_set", namespace="n", key="k", value="1")
    await backend.close()


async def test_what_was_refused_for_its_time_is_not_carried_out_later(owned: tuple[str, str], worklet: Caller) -> None:
    backend = PostgresBackend(login(owned[0]), size=3, timeout=4.0)
    await backend.open()
    running = (
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'"
        " and usename = 'authenticator'"
    )
    connection, watcher = await asyncpg.connect(owned[0]), await asyncpg.connect(owned[0])
    async with connection.transaction():
        await connection.execute("select from private.kv_usage where worklet_id = $1 for update", worklet.worklet_id)
        for _ in range(2):
            # As many of one caller as get a connection at once.
            calls = [call(backend, worklet, "kv_increment", namespace="n", key="k") for _ in range(2)]
            for refused in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(refused, Refusal)
                assert refused.message == "The database did not answer in time; try again."
        # One that its client gave up on.
        gone = asyncio.create_task(call(backend, worklet, "kv_increment", namespace="n", key="k"))
        async with asyncio.timeout(60):
            while not await watcher.fetchval(running):
                await asyncio.sleep(0.01)
            gone.cancel()
            while await watcher.fetchval(running):
                await asyncio.sleep(0.01)
    await connection.close()
    await watcher.close()
    assert await call(backend, worklet, "kv_get", namespace="n", key="k") is None
    await backend.close()


async def test_transactions_that_postgresql_gives_up_are_run_again(owned: tuple[str, str], worklet: Caller) -> None:
    """At `repeatable read`, two writers at once fail with 40001."""
    name = owned[0].rpartition("/")[2]
    await run(owned[0], f"alter database {name} set default_transaction_isolation = 'repeatable read'")
    backend = PostgresBackend(login(owned[0]))
    try:
        for _ in range(5):
            await asyncio.gather(*(call(backend, worklet, "kv_increment", namespace="n", key="k") for _ in range(3)))
        assert (await call(backend, worklet, "kv_get", namespace="n", key="k"))["value"] == 15
    finally:
        await run(owned[0], f"alter database {name} reset default_transaction_isolation")
        await backend.close()


@pytest.mark.parametrize(
    ("value", "status"), [("{bad secret", 400), ('"\\u0000 secret"', 400), ('"\\ud800 secret"', 400)]
)
async def test_what_postgresql_quotes_is_not_passed_on(
    backend: PostgresBackend, worklet: Caller, value: str, status: int
) -> None:
    arguments = {**validated("kv_set", {"p_namespace": "n", "p_key": "k", "p_value": "1"}), "p_value": value}
    with pytest.raises(Refusal) as refused:
        await backend.call(worklet, "kv_set", arguments)
    assert refused.value.status == status
    assert "secret" not in json.dumps(refused.value.body())
    assert refused.value.body()["hint"] == "KV_INVALID"


async def test_administration(backend: PostgresBackend, admin: PostgresAdmin) -> None:
    worklet, owner = str(uuid.uuid4()), str(uuid.uuid4())
    for _ in range(2):
        await admin.register(worklet, owner, "one", max_keys=2, max_bytes=1000)
    assert {"id": worklet, "owner_id": owner, "name": "one"} in await admin.worklets()
    caller = Caller("worklet", worklet, None, issued_at=1000.25)
    await call(backend, caller, "kv_mset", namespace="n", entries='{"a": 1, "b": 2}')
    with pytest.raises(Refusal) as refused:
        await call(backend, caller, "kv_set", namespace="n", key="c", value="1")
    assert refused.value.hint == "KV_QUOTA_KEYS"
    await admin.register(worklet, owner, "two", max_keys=3, max_bytes=1000)
    with pytest.raises(Refusal) as refused:
        await call(backend, caller, "kv_set", namespace="n", key="c", value=json.dumps("x" * 1000))
    assert refused.value.hint == "KV_QUOTA_BYTES"
    person = Caller("authenticated", None, owner)
    assert (await call(backend, person, "kv_stats", worklet_id=worklet))["max_keys"] == 3
    await admin.revoke(worklet, 1000.5)
    with pytest.raises(Refusal) as refused:
        await call(backend, caller, "kv_stats")
    assert refused.value.hint == "KV_REVOKED"
    # An earlier time takes nothing back.
    await admin.revoke(worklet, 10.0)
    with pytest.raises(Refusal, match="revoked"):
        await call(backend, caller, "kv_stats")
    assert (await call(backend, Caller("worklet", worklet, None, issued_at=1000.5), "kv_stats"))["keys"] == 2
    await admin.remove(worklet)
    await admin.remove(worklet)
    with pytest.raises(Refusal) as refused:
        await call(backend, Caller.of_worklet(worklet), "kv_stats")
    assert refused.value.hint == "KV_FORBIDDEN"
    assert worklet not in [w["id"] for w in await admin.worklets()]


async def test_the_sweep_passes_over_worklets_that_are_written_to(
    owned: tuple[str, str], backend: PostgresBackend, admin: PostgresAdmin, worklet: Caller
) -> None:
    await call(backend, worklet, "kv_set", namespace="n", key="k", value="1", ttl=1000)
    await run(owned[0], "update public.worklet_kv_store set expires_at = now() - interval '1 s' where key = 'k'"
              f" and worklet_id = '{worklet.worklet_id}'", "select 1")  # fmt: skip
    connection = await asyncpg.connect(owned[0])
    async with connection.transaction():
        await connection.execute("select from private.kv_usage where worklet_id = $1 for update", worklet.worklet_id)
        assert await admin.sweep() == 0
    await connection.close()
    assert await admin.sweep() == 1
    changes = (await call(backend, worklet, "kv_watch", cursor="1"))["changes"]
    assert [(c["key"], c["deleted"]) for c in changes] == [("k", True)]


async def test_one_worklet_that_is_locked_keeps_none_from_being_swept(
    owned: tuple[str, str], backend: PostgresBackend, admin: PostgresAdmin, worklet: Caller
) -> None:
    other = Caller.of_worklet(str(uuid.uuid4()))
    await admin.register(str(other.worklet_id), str(uuid.uuid4()), "", max_keys=None, max_bytes=None)
    # More than a step takes, and older than the other's.
    for start in range(0, 6000, 1000):
        entries = json.dumps({f"k{n}": 1 for n in range(start, start + 1000)})
        await call(backend, worklet, "kv_mset", namespace="n", entries=entries, ttl=0.001)
    await call(backend, other, "kv_set", namespace="n", key="k", value="1", ttl=0.001)
    connection = await asyncpg.connect(owned[0])
    async with connection.transaction():
        await connection.execute("select from private.kv_usage where worklet_id = $1 for update", worklet.worklet_id)
        assert await admin.sweep() == 1
        # It waits a moment for the last one.
        sweep = asyncio.create_task(admin.sweep())
        waiting = "select exists (select from pg_locks where not granted)"
        async with asyncio.timeout(60):
            while not await connection.fetchval(waiting):
                if sweep.done():  # the moment is over, and nobody looked meanwhile
                    assert sweep.result() == 0
                    sweep = asyncio.create_task(admin.sweep())
                await asyncio.sleep(0)
    assert await sweep + await admin.sweep() == 6000
    await connection.close()


async def test_what_has_expired_takes_no_room(backend: PostgresBackend, admin: PostgresAdmin) -> None:
    worklet = str(uuid.uuid4())
    await admin.register(worklet, str(uuid.uuid4()), "", max_keys=3, max_bytes=1000)
    caller = Caller.of_worklet(worklet)

    async def fill(value: Any) -> None:
        entries = json.dumps(dict.fromkeys("abc", value))
        await call(backend, caller, "kv_mset", namespace="n", entries=entries, ttl=0.001)

    await fill(1)
    await call(backend, caller, "kv_set", namespace="n", key="new", value="1")
    assert (await call(backend, caller, "kv_stats"))["keys"] == 1
    await call(backend, caller, "kv_delete", namespace="n", keys=["new"])
    await fill("x" * 300)
    operations = json.dumps([{"op": "set", "namespace": "n", "key": "a", "value": "y" * 900}])
    await call(backend, caller, "kv_transaction", operations=operations)
    await fill("x" * 10)
    # A person too.
    assert (await call(backend, caller, "kv_stats"))["bytes"] < 1000
    await call(backend, caller, "kv_set", namespace="n", key="b", value=json.dumps("y" * 900))
    with pytest.raises(Refusal) as refused:
        await call(backend, caller, "kv_set", namespace="n", key="c", value=json.dumps("y" * 200))
    assert refused.value.hint == "KV_QUOTA_BYTES"


async def test_a_transaction_counts_as_a_whole(backend: PostgresBackend, admin: PostgresAdmin) -> None:
    worklet, namespace = str(uuid.uuid4()), {"namespace": "n"}
    await admin.register(worklet, str(uuid.uuid4()), "", max_keys=1, max_bytes=1000)
    caller = Caller.of_worklet(worklet)
    await call(backend, caller, "kv_set", namespace="n", key="old", value="1")
    new, old = {"op": "set", "key": "new", "value": 1} | namespace, {"op": "delete", "key": "old"} | namespace
    check = {"op": "check", "key": "old", "version": 1} | namespace
    for operations in ([new], [new, {**new, "key": "newer"}, old]):
        with pytest.raises(Refusal) as refused:
            await call(backend, caller, "kv_transaction", operations=json.dumps(operations))
        assert refused.value.hint == "KV_QUOTA_KEYS"
    assert not (await call(backend, caller, "kv_transaction", operations=json.dumps([new, check])))["committed"]
    assert (await call(backend, caller, "kv_transaction", operations=json.dumps([new, old])))["committed"]
    assert (await call(backend, caller, "kv_stats"))["keys"] == 1
    with pytest.raises(Refusal):
        await call(backend, caller, "kv_set", namespace="n", key="old", value="1")


async def test_an_answer_has_a_bound(backend: PostgresBackend, worklet: Caller) -> None:
    value = json.dumps("x" * 1_000_000)
    for n in range(17):
        await call(backend, worklet, "kv_set", namespace="n", key=f"k{n}", value=value)
    get = {"op": "get", "namespace": "n", "key": "k0"}
    keys = [f"k{n}" for n in range(17)]
    assert len(await call(backend, worklet, "kv_mget", namespace="n", keys=keys[:16])) == 16
    for function, arguments in (
        ("kv_mget", {"namespace": "n", "keys": keys}),
        ("kv_transaction", {"operations": json.dumps([get] * 17)}),
    ):
        with pytest.raises(Refusal, match="answer") as refused:
            await call(backend, worklet, function, **arguments)
        assert (refused.value.status, refused.value.hint) == (413, "KV_TOO_LARGE")


async def test_a_large_store_is_cleared_in_portions(backend: PostgresBackend, worklet: Caller) -> None:
    for start in range(0, 11_000, 1000):
        entries = json.dumps({f"k{n}": 1 for n in range(start, start + 1000)})
        await call(backend, worklet, "kv_mset", namespace="n", entries=entries)
    await call(backend, worklet, "kv_set", namespace="other", key="k", value="1")
    await call(backend, worklet, "kv_set", namespace="n", key="gone", value="1", ttl=0.001)
    assert await call(backend, worklet, "kv_clear", namespace="n") == 11_000
    assert await call(backend, worklet, "kv_clear", namespace="n") == 0
    assert await call(backend, worklet, "kv_list_namespaces") == ["other"]
    assert await call(backend, worklet, "kv_clear", namespace=None) == 1
    assert (await call(backend, worklet, "kv_stats"))["keys"] == 0
    with pytest.raises(Refusal, match="may not use"):
        await call(backend, worklet, "kv_clear", namespace=None, worklet_id=str(uuid.uuid4()))


async def test_a_watcher_behind_forgotten_deletions_starts_anew(
    owned: tuple[str, str], backend: PostgresBackend, admin: PostgresAdmin, worklet: Caller
) -> None:
    await call(backend, worklet, "kv_mset", namespace="n", entries=json.dumps({f"k{n}": n for n in range(5)}))
    cursor = (await call(backend, worklet, "kv_watch"))["cursor"]
    await call(backend, worklet, "kv_delete", namespace="n", keys=["k0"])
    assert len((await call(backend, worklet, "kv_watch", cursor=cursor))["changes"]) == 1
    await run(owned[0], "update private.kv_tombstones set deleted_at = now() - interval '25 h'", "select 1")
    assert await admin.sweep() >= 1
    keys, resets = [], []
    while len(keys) < 4:
        page = await call(backend, worklet, "kv_watch", cursor=cursor, limit=2)
        cursor = page["cursor"]
        keys += [change["key"] for change in page["changes"]]
        resets.append(page["reset"])
    assert (keys, resets) == (["k1", "k2", "k3", "k4"], [True, False])
    assert (await call(backend, worklet, "kv_watch", cursor=cursor))["changes"] == []
    # A cursor from a later life of the database.
    assert (await call(backend, worklet, "kv_watch", cursor="999999999999"))["reset"] is True


async def test_a_worklet_whose_writers_wait_takes_no_connection_from_others(
    owned: tuple[str, str], backend: PostgresBackend, admin: PostgresAdmin, worklet: Caller
) -> None:
    other = Caller.of_worklet(str(uuid.uuid4()))
    await admin.register(str(other.worklet_id), str(uuid.uuid4()), "", max_keys=None, max_bytes=None)
    connection = await asyncpg.connect(owned[0])
    async with connection.transaction():
        await connection.execute("select from private.kv_usage where worklet_id = $1 for update", worklet.worklet_id)
        writers = [
            asyncio.create_task(call(backend, worklet, "kv_increment", namespace="n", key="k")) for _ in range(60)
        ]
        await until_async(lambda: waiting(connection), 2)
        async with asyncio.timeout(30):  # their locks are waited for longer
            await call(backend, other, "kv_set", namespace="n", key="k", value="1")
            assert (await call(backend, worklet, "kv_get", namespace="n", key="k")) is None
        assert await waiting(connection) == 2
    done = await asyncio.gather(*writers)
    assert sorted(one["value"] for one in done) == list(range(1, 61))
    await connection.close()


async def waiting(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("select count(distinct pid) from pg_locks where not granted"))


async def until_async(look: Callable[[], Awaitable[int]], number: int) -> None:
    async with asyncio.timeout(60):
        while await look() < number:
            await asyncio.sleep(0.01)


async def test_deletions_without_end_do_not_fill_the_disk(
    owned: tuple[str, str], backend: PostgresBackend, worklet: Caller
) -> None:
    connection = await asyncpg.connect(owned[0])

    async def tombstones() -> int:
        by_counter, found = await connection.fetchrow(
            "select tombstones, (select count(*) from private.kv_tombstones t where t.worklet_id = u.worklet_id)"
            " from private.kv_usage u where worklet_id = $1", worklet.worklet_id,
        )  # fmt: skip
        assert by_counter == found
        return int(found)

    async def fill(start: int) -> list[str]:
        entries = {f"k{n}": 0 for n in range(start, start + 1000)}
        await call(backend, worklet, "kv_mset", namespace="n", entries=json.dumps(entries))
        return list(entries)

    await call(backend, worklet, "kv_set", namespace="n", key="stays", value="1")
    first = (await call(backend, worklet, "kv_watch"))["cursor"]
    for start in range(0, 12_000, 1000):
        keys = await fill(start)
        recent = (await call(backend, worklet, "kv_watch"))["cursor"]
        assert await call(backend, worklet, "kv_delete", namespace="n", keys=keys) == 1000
    assert 9_000 <= await tombstones() <= 10_000
    page = await call(backend, worklet, "kv_watch", cursor=first)
    assert (page["reset"], [change["key"] for change in page["changes"]]) == (True, ["stays"])
    page = await call(backend, worklet, "kv_watch", cursor=recent)
    assert (page["reset"], len(page["changes"])) == (False, 1000)
    # Written again, they are no tombstones.
    before = await tombstones()
    await fill(11_500)
    assert await tombstones() == before - 500
    # More than are remembered, in one transaction.
    for start in range(0, 10_000, 1000):
        await fill(start)
    recent = (await call(backend, worklet, "kv_watch"))["cursor"]
    gone = await connection.execute(
        "delete from public.worklet_kv_store where worklet_id = $1 and namespace = 'n'", worklet.worklet_id
    )
    assert int(gone.removeprefix("DELETE ")) > 10_000
    assert await tombstones() == 0
    page = await call(backend, worklet, "kv_watch", cursor=recent)
    assert (page["reset"], page["changes"]) == (True, [])
    await call(backend, worklet, "kv_set", namespace="n", key="stays", value="2")
    page = await call(backend, worklet, "kv_watch", cursor=page["cursor"])
    assert (page["reset"], [change["value"] for change in page["changes"]]) == (False, [2])
    await connection.close()


async def test_listing_a_large_store_reads_one_page_of_the_index(
    owned: tuple[str, str], backend: PostgresBackend, worklet: Caller
) -> None:
    for start in range(0, 20_000, 1000):
        entries = json.dumps({f"key-{n:06}": n for n in range(start, start + 1000)})
        await call(backend, worklet, "kv_mset", namespace="n", entries=entries)
    page = await call(backend, worklet, "kv_list", namespace="n", prefix="key-01", cursor="key-012000", limit=100)
    assert [entry["key"] for entry in page["entries"]] == [f"key-{n:06}" for n in range(12_001, 12_101)]
    connection = await asyncpg.connect(owned[0], server_settings={"auto_explain.log_analyze": "off"})
    async with connection.transaction():
        await connection.execute("select private.kv_assume('worklet', $1)", json.dumps(worklet.claims()))
        plan = await connection.fetch(
            "explain select * from public.worklet_kv_store t where t.worklet_id = $1 and t.namespace = 'n'"
            " and t.key >= 'key-01' and t.key < 'key-02' and t.key > 'key-012000' order by t.key limit 100",
            worklet.worklet_id,
        )
    await connection.close()
    text = "\n".join(row[0] for row in plan)
    assert "unique_worklet_namespace_key" in text
    assert "Sort" not in text
    assert "Seq Scan" not in text
