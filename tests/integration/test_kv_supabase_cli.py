"""Supabase's CLI applies our migrations, `flow db upgrade --kv` sees that, and its advisors are content."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import supabaselite
from postgres import postgres_server  # noqa: F401 - fixture
from waiting import until

import migrations
from kvstore.gateway.callers import Caller
from kvstore.gateway.functions import validated
from kvstore.gateway.postgres import PostgresAdmin, PostgresBackend
from migrations.kvupgrade import files, upgrade_kv

pytestmark = [pytest.mark.node, pytest.mark.postgres, pytest.mark.timeout(600)]

HERE = Path(migrations.__file__).parent
OF_THEIRS = "20240102030405_theirs.sql"

#: What the advisors find all the same, and why that is right.
ANSWERS = {"unused_index": "the database is new: nothing was ever looked up in it"}

#: As in a new project on Supabase: its owner is no superuser, and what they make in schema public is everybody's.
_PLATFORM = """
do $$ declare r text; begin
  foreach r in array array['anon', 'authenticated', 'service_role', 'authenticator', 'project_owner'] loop
    if not exists (select from pg_roles where rolname = r) then execute format('create role %I', r); end if;
  end loop;
end $$;
alter role authenticator login noinherit;
alter role service_role bypassrls;
alter role project_owner login createrole createdb bypassrls;
grant anon, authenticated, service_role to authenticator, project_owner;
create schema auth;
grant usage on schema auth, public to anon, authenticated, service_role;
create function auth.jwt() returns jsonb language sql stable as $$
  select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
alter default privileges for role project_owner in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role project_owner in schema public
  grant all on functions to anon, authenticated, service_role;
alter default privileges for role project_owner in schema public
  grant all on sequences to anon, authenticated, service_role;
"""


class Project:
    """A folder with `supabase/migrations`, and a database like that of a new Supabase project."""

    def __init__(self, home: Path, dsn: str) -> None:
        self.home, self.dsn = home, dsn
        self.migrations = home / "supabase" / "migrations"
        self.migrations.mkdir(parents=True)
        (self.migrations / OF_THEIRS).write_text("""
            create table public.theirs (id int primary key);
            alter table public.theirs enable row level security;
            create policy mine on public.theirs for select using (id = 1);
        """)

    def cli(self, *words: str) -> str:
        """What it prints, with its messages. Raises AssertionError when it fails."""
        done = subprocess.run(
            [supabaselite.CLI, *words, "--db-url", f"{self.dsn}?sslmode=disable"],
            cwd=self.home, env={"PATH": os.environ["PATH"], "HOME": str(self.home), "DO_NOT_TRACK": "1"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def copy(self) -> None:
        """As docs/kvstore-supabase.md has it: cp …/migrations/[0-9]*.sql supabase/migrations/"""
        subprocess.run(f"cp {HERE}/[0-9]*.sql supabase/migrations/", shell=True, cwd=self.home, check=True)

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        return asyncio.run(self._sql(text))

    async def _sql(self, text: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [tuple(row) for row in await connection.fetch(text)]
        finally:
            await connection.close()

    def advice(self) -> dict[str, str]:
        """Each finding and where."""
        text = self.cli("db", "advisors", "--type", "all", "--level", "info", "--output-format", "json")
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])["results"]
        return {f"{one['name']}: {one['detail']}": one["name"] for one in found}


@pytest.fixture
def project(postgres_server: str, tmp_path: Path) -> Iterator[Project]:  # noqa: F811
    supabaselite.install()
    name = f"cli_{os.urandom(4).hex()}"

    async def administer(*statements: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(f"{postgres_server}/{database}")
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(administer(f"create database {name}"))
    asyncio.run(administer(_PLATFORM, f"alter database {name} owner to project_owner", database=name))
    yield Project(tmp_path, f"{postgres_server}/{name}".replace("://flow@", "://project_owner@"))
    asyncio.run(administer(f"drop database {name} with (force)"))


def works(project: Project) -> bool:
    """Flow finds tables, policies and grants in order, and the owner, who is no superuser, looks after worklets."""

    async def use() -> bool:
        mine, person = str(uuid.uuid4()), str(uuid.uuid4())
        admin = PostgresAdmin(project.dsn)
        backend = PostgresBackend(project.dsn.replace("://project_owner@", "://authenticator@"))
        try:
            await backend.check()
            await admin.register(mine, person, "a worklet", max_keys=5, max_bytes=None)
            arguments = validated("kv_set", {"p_namespace": "n", "p_key": "k", "p_value": "1", "p_ttl": 0.001})
            await backend.call(Caller.of_worklet(mine), "kv_set", arguments)
            await until(admin.sweep)
            assert await admin.worklets() == [{"id": mine, "owner_id": person, "name": "a worklet"}]
            await admin.remove(mine)
            return await admin.worklets() == []
        finally:
            await backend.close()
            await admin.close()

    return asyncio.run(use())


def test_a_project_with_migrations_of_its_own_takes_ours_by_the_cli(project: Project) -> None:
    assert OF_THEIRS in project.cli("migration", "up")
    project.copy()
    told = project.cli("db", "push", "--include-all", "--yes")
    assert all(path.name in told for _, _, path in files())
    assert works(project)
    assert asyncio.run(upgrade_kv(project.dsn)) == [], "flow db upgrade --kv sees what the CLI applied"
    # Of what the platform gives everybody by default, nothing is left but what is theirs.
    assert project.sql(_RIGHTS_OF_ANON) == [("theirs",)]


_RIGHTS_OF_ANON = """
with ours as (select oid from pg_namespace where nspname in ('public', 'private'))
select c.relname from pg_class c join ours o on o.oid = c.relnamespace
 where c.relkind in ('r', 'v') and has_table_privilege('anon', c.oid, 'select, insert, update, delete, truncate')
union all
select c.relname from pg_class c join ours o on o.oid = c.relnamespace
 where case when c.relkind = 'S' then has_sequence_privilege('anon', c.oid, 'usage, select, update') end
union all
select p.proname from pg_proc p join ours o on o.oid = p.pronamespace
 where has_function_privilege('anon', p.oid, 'execute')
"""


def test_the_cli_sees_what_flow_applied_and_its_advisors_are_content(project: Project) -> None:
    applied = asyncio.run(upgrade_kv(project.dsn))
    assert applied == [path.name for _, _, path in files()]
    project.copy()
    told = project.cli("migration", "up", "--include-all")
    assert OF_THEIRS in told
    assert not any(name in told for name in applied)
    assert works(project)

    advice = project.advice()
    assert {what: name for what, name in advice.items() if name not in ANSWERS} == {}
    assert set(advice.values()) == set(ANSWERS)

    # They do look:
    project.sql("alter table public.worklets disable row level security")
    project.sql("create view public.leak as select * from public.worklet_kv_store")
    names = set(project.advice().values())
    assert {"rls_disabled_in_public", "security_definer_view"} <= names
