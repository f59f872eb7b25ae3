"""The walls between worklets in PostgreSQL, and checks that each stands.

`broken(connection)` runs every check against a seeded database and tells which fail: none on the migration as it is, at
least one on every mutant of it. Each check works in a savepoint that is rolled back, and asserts exact rows: a check
that sees nothing at all fails.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from migrations.kvupgrade import upgrade_kv

A, B, C = (f"00000000-0000-4000-8000-00000000000{n}" for n in "abc")
P, Q = (f"00000000-0000-4000-9000-00000000000{n}" for n in "12")
OWNERS = {A: P, B: P, C: Q}
KEYS = [("default", "a"), ("default", "b"), ("other", "a")]
TABLES = {
    "public.worklets": "id",
    "public.worklet_kv_store": "worklet_id",
    "private.kv_usage": "worklet_id",
    "private.kv_tombstones": "worklet_id",
}

Connection = Any
Check = Callable[[Connection], Awaitable[None]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


async def make_owned_database(address: str) -> tuple[str, str]:
    """A database with the migration, which a login without superuser or bypassrls applied and owns.

    The DSNs of a superuser and of the owner.
    """
    name = f"walls_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(f"{address}/postgres")
    try:
        if not await connection.fetchval("select exists (select from pg_roles where rolname = 'kv_owner')"):
            await connection.execute("create role kv_owner login createrole")
        await connection.execute(f"create database {name} owner kv_owner")
    finally:
        await connection.close()
    owner = f"{address.replace('://flow@', '://kv_owner@')}/{name}"
    await upgrade_kv(owner)
    return f"{address}/{name}", owner


async def seed(connection: Connection) -> None:
    """Three worklets of two people, with three entries and a tombstone each; every value tells whose it is."""
    for worklet, owner in OWNERS.items():
        await connection.execute("insert into public.worklets (id, user_id) values ($1, $2)", worklet, owner)
        async with acting(connection, "worklet", worklet_claims(worklet), keep=True):
            for namespace, key in [*KEYS, ("default", "gone")]:
                await connection.execute(
                    "select public.kv_set($1, $2, $3)", namespace, key, json.dumps({"of": worklet})
                )
            await connection.execute("select public.kv_delete('default', '{gone}')")


def worklet_claims(worklet: str, **more: Any) -> dict[str, Any]:
    return {"role": "worklet", "sub": worklet, "worklet_id": worklet, "iat": 2_000_000_000.5, **more}


def person_claims(person: str, **more: Any) -> dict[str, Any]:
    return {"role": "authenticated", "sub": person, **more}


@asynccontextmanager
async def acting(connection: Connection, role: str, claims: object, *, keep: bool = False) -> AsyncIterator[None]:
    """As PostgREST does: the role and the claims, set locally. What was done is undone, unless `keep`."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        text = claims if isinstance(claims, str) else json.dumps(claims)
        await connection.execute("select set_config('request.jwt.claims', $1, true)", text)
        await connection.execute(f"set local role {role}")
        yield
        if keep:
            await connection.execute("reset role")
    except BaseException:
        await transaction.rollback()
        raise
    await (transaction.commit() if keep else transaction.rollback())


async def broken(connection: Connection, checks: Sequence[Check] | None = None) -> dict[str, str]:
    """The first check that fails, with why; nothing when all pass."""
    for each in CHECKS if checks is None else checks:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await each(connection)
        except (AssertionError, TypeError, asyncpg.PostgresError) as error:
            return {each.__name__: str(error)[:300]}
        finally:
            await transaction.rollback()
    return {}


async def refused(connection: Connection, states: str, statement: str, *values: Any) -> None:
    """Fails unless it raises one of these SQLSTATEs, written with blanks between."""
    try:
        async with connection.transaction():
            await connection.execute(statement, *values)
    except asyncpg.PostgresError as error:
        state = error.sqlstate
    else:
        state = "let through"
    assert state in states.split(), f"{state}: {statement}"


_TRY = """
do $$
declare
  v_statement text;
  v_states jsonb := '{}';
begin
  for v_statement in select jsonb_array_elements_text(current_setting('walls.statements')::jsonb) loop
    begin
      execute v_statement;
      v_states := v_states || jsonb_build_object(v_statement, 'let through');
    exception when others then
      v_states := v_states || jsonb_build_object(v_statement, sqlstate);
    end;
  end loop;
  perform set_config('walls.states', v_states::text, true);
end $$
"""


async def all_refused(connection: Connection, states: str, statements: Iterable[str], worklet: str | None) -> None:
    """As `refused`, for many statements in one round trip. `worklet` is their $1."""
    literal = "null" if worklet is None else f"'{worklet}'"
    wanted = json.dumps([statement.replace("$1", literal) for statement in statements])
    await connection.execute("select set_config('walls.statements', $1, true)", wanted)
    await connection.execute(_TRY)
    found = json.loads(await connection.fetchval("select current_setting('walls.states')"))
    assert found
    assert set(found.values()) <= set(states.split()), found


async def everything(connection: Connection) -> dict[str, list[Any]]:
    """All rows of all tables, as a superuser sees them."""
    return {t: [tuple(r) for r in await connection.fetch(f"select * from {t} order by 1, 2, 3")] for t in TABLES}


async def _seen(connection: Connection, table: str) -> list[str]:
    column = TABLES[table]
    return sorted(str(r[0]) for r in await connection.fetch(f"select {column} from {table}"))


_EACH = {"public.worklets": 1, "public.worklet_kv_store": len(KEYS), "private.kv_usage": 1, "private.kv_tombstones": 1}


async def _sees(connection: Connection, worklets: list[str]) -> None:
    for table, rows in _EACH.items():
        assert await _seen(connection, table) == sorted(worklets * rows), f"rows of {table}"


async def _is_refused_everywhere(connection: Connection, worklet: str) -> None:
    """By the tables and by the functions."""
    for table in TABLES:
        try:
            async with connection.transaction():
                seen = await _seen(connection, table)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.DataError):
            continue
        assert seen == [], f"rows of {table}"
    insert = "insert into public.worklet_kv_store (worklet_id, namespace, key, value) values ($1, 'default', 'x', '1')"
    await refused(connection, "42501 22P02", insert, worklet)
    await all_refused(connection, "42501 22P02", CALLS.values(), None)
    await all_refused(connection, "42501 22P02", CALLS.values(), worklet)


CALLS = {
    "kv_get": "select public.kv_get('default', 'a', p_worklet_id => $1)",
    "kv_has": "select public.kv_has('default', 'a', p_worklet_id => $1)",
    "kv_mget": "select public.kv_mget('default', '{a,b}', p_worklet_id => $1)",
    "kv_list": "select public.kv_list('default', p_worklet_id => $1)",
    "kv_list_namespaces": "select public.kv_list_namespaces(p_worklet_id => $1)",
    "kv_stats": "select public.kv_stats(p_worklet_id => $1)",
    "kv_watch": "select public.kv_watch(p_cursor => '0', p_worklet_id => $1)",
    "kv_set": "select public.kv_set('default', 'a', '1', p_worklet_id => $1)",
    "kv_mset": """select public.kv_mset('default', '{"a":1}', p_worklet_id => $1)""",
    "kv_delete": "select public.kv_delete('default', '{a}', p_worklet_id => $1)",
    "kv_clear": "select public.kv_clear(null, p_worklet_id => $1)",
    "kv_increment": "select public.kv_increment('default', 'n', p_worklet_id => $1)",
    "kv_append": "select public.kv_append('default', 'l', '1', p_worklet_id => $1)",
    "kv_transaction": """select public.kv_transaction('[{"op":"set","key":"a","value":1}]', p_worklet_id => $1)""",
}


@check
async def a_worklet_sees_its_own(connection: Connection) -> None:
    for worklet in OWNERS:
        async with acting(connection, "worklet", worklet_claims(worklet)):
            await _sees(connection, [worklet])


@check
async def a_person_sees_their_worklets(connection: Connection) -> None:
    for person, worklets in ((P, [A, B]), (Q, [C])):
        async with acting(connection, "authenticated", person_claims(person)):
            await _sees(connection, worklets)


@check
async def an_owners_id_in_a_worklets_token_opens_nothing(connection: Connection) -> None:
    async with acting(connection, "worklet", worklet_claims(A, sub=P)):
        await _sees(connection, [A])
    async with acting(connection, "worklet", {"role": "worklet", "sub": P}):
        await _is_refused_everywhere(connection, A)


@check
async def others_are_refused(connection: Connection) -> None:
    unknown = "00000000-0000-4000-8000-0000000000ff"
    for role, claims in (
        ("anon", person_claims(P)),
        ("anon", ""),
        ("worklet", ""),
        ("worklet", {"worklet_id": None}),
        ("worklet", {"worklet_id": [A]}),
        ("worklet", {"worklet_id": "' or true --"}),
        ("worklet", [A]),
        ("worklet", worklet_claims(unknown)),
        ("authenticated", ""),
        ("authenticated", person_claims(unknown)),
        ("authenticated", person_claims(P, worklet_id=A)),
        ("authenticated", person_claims("garbage")),
        ("authenticator", worklet_claims(A)),
    ):
        async with acting(connection, role, claims):
            await _is_refused_everywhere(connection, A)


@check
async def a_revoked_token_is_void(connection: Connection) -> None:
    await connection.execute("select public.kv_admin_revoke($1, to_timestamp(2000000000.6))", A)
    async with acting(connection, "worklet", worklet_claims(A)):
        await _is_refused_but_counters(connection)
    async with acting(connection, "worklet", worklet_claims(A, iat=2_000_000_000.7)):
        await _sees(connection, [A])
    async with acting(connection, "worklet", worklet_claims(B)):
        await _sees(connection, [B])


async def _is_refused_but_counters(connection: Connection) -> None:
    """The counters are in a schema that no API shows; they hold the time of revocation itself."""
    for table in ("public.worklets", "public.worklet_kv_store", "private.kv_tombstones"):
        assert await _seen(connection, table) == [], f"rows of {table}"
    await all_refused(connection, "42501", CALLS.values(), None)
    assert await connection.execute("delete from public.worklet_kv_store") == "DELETE 0"


@check
async def no_write_crosses_the_line(connection: Connection) -> None:
    before = await everything(connection)
    for role, claims, other in (
        ("worklet", worklet_claims(A), B),
        ("worklet", worklet_claims(A), C),
        ("authenticated", person_claims(P), C),
    ):
        for key in ("a", "fresh"):
            columns = "(worklet_id, namespace, key, value)"
            into = f"insert into public.worklet_kv_store {columns} values ($1, 'default', $2, '1')"
            async with acting(connection, role, claims):
                for end in (
                    "",
                    " on conflict do nothing",
                    " on conflict (worklet_id, namespace, key) do update set value = '2'",
                ):
                    await refused(connection, "42501", into + end, other, key)
        async with acting(connection, role, claims):
            await refused(connection, "42501 22023", "update public.worklet_kv_store set worklet_id = $1", other)
            await refused(connection, "42501", "truncate public.worklet_kv_store")
            for table in ("private.kv_usage", "private.kv_tombstones"):
                await refused(connection, "42501", f"delete from {table}")
                await refused(connection, "42501", f"update {table} set worklet_id = worklet_id")
            await all_refused(connection, "42501", CALLS.values(), other)
    assert await everything(connection) == before


async def _changed(connection: Connection, before: dict[str, list[Any]]) -> set[str]:
    """Whose entries differ from before."""
    now = set((await everything(connection))["public.worklet_kv_store"])
    return {str(row[1]) for row in now.symmetric_difference(before["public.worklet_kv_store"])}


@check
async def writes_without_filter_reach_ones_own(connection: Connection) -> None:
    before = await everything(connection)
    for role, claims, worklets in (
        ("worklet", worklet_claims(A), {A}),
        ("authenticated", person_claims(P), {A, B}),
    ):
        rows = len(KEYS) * len(worklets)
        for statement, tag in (
            ("update public.worklet_kv_store set value = '7'", f"UPDATE {rows}"),
            ("delete from public.worklet_kv_store", f"DELETE {rows}"),
        ):
            outer = connection.transaction()
            await outer.start()
            async with acting(connection, role, claims, keep=True):
                assert await connection.execute(statement) == tag
            assert await _changed(connection, before) == worklets
            await outer.rollback()


@check
async def functions_work_on_ones_own(connection: Connection) -> None:
    for role, claims, named in (("worklet", worklet_claims(A), (None, A)), ("authenticated", person_claims(P), (A,))):
        for worklet in named:
            before = await everything(connection)
            outer = connection.transaction()
            await outer.start()
            async with acting(connection, role, claims, keep=True):
                for statement in CALLS.values():
                    assert await connection.fetchval(statement, worklet) is not None, statement
            assert await _changed(connection, before) == {A}
            await outer.rollback()


@check
async def answers_hold_ones_own_values(connection: Connection) -> None:
    async with acting(connection, "authenticated", person_claims(P)):
        entry = json.loads(await connection.fetchval(CALLS["kv_get"], B))
        assert entry["value"] == {"of": B}
        page = json.loads(
            await connection.fetchval("select public.kv_list('default', p_values => true, p_worklet_id => $1)", B)
        )
        assert [(e["key"], e["value"]) for e in page["entries"]] == [("a", {"of": B}), ("b", {"of": B})]
        changes = json.loads(await connection.fetchval(CALLS["kv_watch"], B))["changes"]
        assert [c["value"] for c in changes] == [{"of": B}] * 3


@check
async def a_person_cannot_take_worklets(connection: Connection) -> None:
    async with acting(connection, "authenticated", person_claims(Q)):
        await refused(
            connection, "42501", "insert into public.worklets (id, user_id) values (gen_random_uuid(), $1)", P
        )
        await refused(connection, "42501", "update public.worklets set user_id = $1", Q)
        await refused(connection, "42501", "insert into public.worklets (id, user_id) values ($1, $2)"
                      " on conflict (id) do update set user_id = excluded.user_id", A, Q)  # fmt: skip
        assert await connection.execute("update public.worklets set name = 'mine'") == "UPDATE 1"
        assert await connection.execute("delete from public.worklets") == "DELETE 1"
    async with acting(connection, "worklet", worklet_claims(A)):
        await refused(connection, "42501", "delete from public.worklets")
        await refused(connection, "42501", "update public.worklets set name = 'x'")
        await refused(connection, "42501", "select user_id from public.worklets")


@check
async def a_person_cannot_remake_a_worklet(connection: Connection) -> None:
    """Which would undo its quotas and its revocation."""
    await connection.execute("select public.kv_admin_register($1, $2)", A, P)
    async with acting(connection, "authenticated", person_claims(P)):
        await refused(connection, "42501", "delete from public.worklets where id = $1", A)
        await refused(connection, "42501", "delete from public.worklets")
        many = "insert into public.worklets (user_id) select $1::uuid from generate_series(1, $2)"
        await refused(connection, "42501", many, P, 999)
        await connection.execute(many, P, 998)
        await refused(connection, "42501", many, P, 1)
    # Nor is there anything of another in a worklet that Flow makes.
    await connection.execute("select public.kv_admin_register($1, $2)", C, P)
    async with acting(connection, "authenticated", person_claims(P)):
        assert json.loads(await connection.fetchval(CALLS["kv_list"], C)) == {"entries": [], "cursor": None}
        assert json.loads(await connection.fetchval(CALLS["kv_stats"], C))["keys"] == 0
    # But one of its own may get another owner.
    await connection.execute("select public.kv_admin_register($1, $2)", A, Q)
    async with acting(connection, "authenticated", person_claims(Q)):
        assert json.loads(await connection.fetchval(CALLS["kv_stats"], A))["keys"] == len(KEYS)


@check
async def administration_is_not_for_tokens(connection: Connection) -> None:
    for role, claims in (("anon", ""), ("worklet", worklet_claims(A)), ("authenticated", person_claims(P))):
        async with acting(connection, role, claims):
            calls = (
                f"public.kv_admin_register('{A}', '{Q}')", f"public.kv_admin_revoke('{A}', now())",
                f"public.kv_admin_remove('{A}')", "public.kv_admin_sweep()", "public.kv_admin_worklets()",
                "private.kv_sweep()", "private.kv_assume('authenticated', '{}')",
            )  # fmt: skip
            await all_refused(connection, "42501", [f"select {call}" for call in calls], None)


@check
async def a_function_of_the_owner_shows_a_token_nothing_else(connection: Connection) -> None:
    """What FORCE is for: somebody adds a definer function, or a view, to the schema."""
    await connection.execute(
        "set local role kv_owner;"
        "create function public.trap() returns setof uuid language sql security definer as"
        " 'select worklet_id from public.worklet_kv_store union all select id from public.worklets';"
        "create view public.trap_view as select worklet_id from public.worklet_kv_store union all"
        " select id from public.worklets;"
        "grant execute on function public.trap() to worklet, authenticated;"
        "grant select on public.trap_view to worklet;"
        "reset role"
    )
    async with acting(connection, "worklet", worklet_claims(A)):
        for statement in ("select public.trap()", "select * from public.trap_view"):
            try:
                async with connection.transaction():
                    assert {str(row[0]) for row in await connection.fetch(statement)} <= {A}
            except asyncpg.InsufficientPrivilegeError:
                pass  # as good: the owner's policies call functions that a worklet may not
