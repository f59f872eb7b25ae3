"""Whatever loosens the walls between worklets in PostgreSQL is noticed: only the migration passes every check."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import kvcatalogue  # noqa: F401 - adds its checks
import kvwalls
import pytest
import pytest_asyncio
from postgres import postgres_server  # noqa: F401 - fixture

from kvstore.gateway.errors import Refusal
from kvstore.gateway.postgrescheck import check_revision, check_walls

pytestmark = [pytest.mark.postgres, pytest.mark.asyncio(loop_scope="module")]

STORE, WORKLETS = "public.worklet_kv_store", "public.worklets"
USAGE, TOMBSTONES = "private.kv_usage", "private.kv_tombstones"


def _loosened() -> dict[str, str]:
    """Each policy dropped; its conditions loosened."""
    mutants = {}
    policies = {
        STORE: ("kv_worklet", "kv_person", "kv_person_only"),
        WORKLETS: ("worklets_worklet", "worklets_person", "worklets_person_only"),
        USAGE: ("usage_worklet", "usage_person", "usage_person_only"),
        TOMBSTONES: ("tombstones_worklet", "tombstones_person", "tombstones_person_only"),
    }
    for table, names in policies.items():
        for name in names:
            mutants[f"{name} dropped"] = f"drop policy {name} on {table}"
            mutants[f"{name} using true"] = f"alter policy {name} on {table} using (true)"
            if table == STORE or (table == WORKLETS and name == "worklets_person"):
                mutants[f"{name} check true"] = f"alter policy {name} on {table} with check (true)"
        mutants[f"{table} without row security"] = f"alter table {table} disable row level security"
        mutants[f"{table} not forced"] = f"alter table {table} no force row level security"
    # Of the two conditions on one's own rows the restrictive one's check is the second wall behind `using`.
    return mutants


MUTANTS = {
    **_loosened(),
    "keeper of entries always": f"alter policy kv_keeper on {STORE} using (true)",
    "keeper of worklets always": f"alter policy worklets_keeper on {WORKLETS} using (true)",
    "a policy for anon": f"create policy p on {STORE} for select to anon using (true); grant select on {STORE} to anon",
    "a policy for all": f"create policy p on {STORE} for select to public using (true)",
    "truncate granted": f"grant truncate on {STORE} to worklet",
    "all granted": f"grant all on {STORE} to worklet",
    "all granted to anon": f"grant all on {STORE} to anon",
    "counters granted": f"grant update on {USAGE} to worklet",
    "tombstones granted": f"grant insert on {TOMBSTONES} to authenticated",
    "owner granted": f"grant select (user_id) on {WORKLETS} to worklet",
    "owner's update granted": f"grant update (user_id) on {WORKLETS} to authenticated",
    "version granted": f"grant update (version) on {STORE} to worklet",
    "sequence granted": "grant usage on sequence private.kv_version to worklet",
    "functions granted to anon": "grant execute on all functions in schema public to anon;"
    " grant usage on schema private to anon",
    "a function for everybody": "grant execute on function public.kv_get(text, text, uuid) to public",
    "administration granted": "grant execute on function public.kv_admin_remove(uuid) to authenticated",
    "sweep granted": "grant execute on function private.kv_sweep(integer) to worklet",
    "assume granted": "grant execute on function private.kv_assume(text, text) to worklet",
    "definer get": "alter function public.kv_get(text, text, uuid) security definer",
    "definer clear": "alter function public.kv_clear(text, uuid) security definer",
    "definer owned_worklets": "alter function private.owned_worklets() security definer",
    "definer of a superuser": "alter function public.kv_list_namespaces(uuid) security definer;"
    " alter function public.kv_list_namespaces(uuid) owner to flow",
    "get without search_path": "alter function public.kv_get(text, text, uuid) reset search_path",
    "trigger's function without search_path": "alter function private.kv_before_write() reset search_path",
    "token_worklet takes every claim": "create or replace function private.token_worklet() returns uuid"
    " language sql stable security definer set search_path = '' as $$ select (auth.jwt() ->> 'worklet_id')::uuid $$",
    "owned_worklets are all": "create or replace function private.owned_worklets() returns setof uuid"
    " language sql stable security definer set search_path = '' as $$ select worklet_id from private.kv_usage $$",
    "enter lets everybody in": "create or replace function private.kv_enter(p_worklet_id uuid) returns uuid"
    " language plpgsql stable set search_path = '' as $$ begin return p_worklet_id; end $$",
    "unmixed is always true": "create or replace function private.kv_unmixed() returns boolean language plpgsql stable"
    " set search_path = '' as $$ begin return true; end $$",
    "leaking view": f"create view public.entries as select * from {STORE}; grant select on public.entries to worklet",
    "leaking view of a superuser": f"create view public.entries as select * from {STORE};"
    " grant select on public.entries to anon; alter view public.entries owner to flow",
    "materialized copy": f"create materialized view public.copy as select * from {STORE};"
    " grant select on public.copy to worklet",
    "another table without walls": "create table public.notes (id int); grant select on public.notes to worklet",
    "another definer function": f"create function public.all_keys() returns setof text language sql security definer as"
    f" 'select key from {STORE}'",
    **{
        f"{name} does not lock": f"create or replace function private.{name}({takes}) returns {gives} language plpgsql"
        f" security definer set search_path = pg_catalog, pg_temp as $$ begin {does} end $$"
        for name, takes, gives, does in (
            ("kv_lock", "p_worklet_id uuid", "void", ""),
            ("kv_before_delete", "", "trigger", "return old;"),
            ("kv_before_write", "", "trigger", "new.size := octet_length(new.namespace) + octet_length(new.key) +"
             " octet_length(new.value::text); new.version := nextval('private.kv_version'); return new;"),
        )
    },
    "kv_before_insert lets everybody by": "create or replace function private.kv_before_insert() returns trigger"
    " language plpgsql set search_path = '' as $$ begin return new; end $$",
    "values are not checked": "create or replace function private.kv_check_value(p_value jsonb, p_text text)"
    " returns void language plpgsql stable set search_path = '' as $$ begin end $$",
    "cascade lost": f"alter table {TOMBSTONES} drop constraint kv_tombstones_worklet_id_fkey",
    **{
        f"trigger {name} {how}": (
            f"alter table {table} disable trigger {name}" if how == "off" else f"drop trigger {name} on {table}"
        )
        for how in ("off", "dropped")
        for table, names in (
            (STORE, ("kv_before_insert", "kv_before_write", "kv_before_delete")),
            (STORE, ("kv_after_insert", "kv_after_update", "kv_after_delete")),
            (WORKLETS, ("worklet_added", "worklet_changed", "worklet_kept", "worklets_limited")),
        )
        for name in names
    },
}  # fmt: skip

#: Those that a start of Flow's gateway refuses as well.
SEEN_AT_START = [
    name
    for name in MUTANTS
    if name.endswith((" dropped", "row security", "not forced", "for anon", "for all")) and "trigger" not in name
]


@pytest.fixture(scope="module")
def database(postgres_server: str) -> str:  # noqa: F811
    """A superuser's DSN of a seeded database that a login without superuser owns."""

    async def make() -> str:
        superuser, _ = await kvwalls.make_owned_database(postgres_server)
        connection = await asyncpg.connect(superuser)
        try:
            await kvwalls.seed(connection)
        finally:
            await connection.close()
        return superuser

    return asyncio.run(make())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(loop_scope="module")
async def connection(session: Any) -> AsyncIterator[Any]:
    """All that is done with it is undone: one database serves every mutant."""
    connection = session
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection
    finally:
        await transaction.rollback()


async def test_the_migration_passes_every_check(connection: Any) -> None:
    assert await kvwalls.broken(connection) == {}
    await check_revision(connection)


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mutant_is_noticed(mutant: str, connection: Any) -> None:
    await connection.execute(f"set local role kv_owner; {MUTANTS[mutant]}; reset role" if "flow" not in MUTANTS[mutant]
                             else MUTANTS[mutant])  # fmt: skip
    assert await kvwalls.broken(connection), "every check passed"


@pytest.mark.parametrize("mutant", SEEN_AT_START)
async def test_a_missing_policy_is_noticed_at_the_start(mutant: str, connection: Any) -> None:
    await connection.execute(MUTANTS[mutant])
    with pytest.raises(Refusal, match=r"policies|[Rr]ow level security"):
        await check_walls(connection)
