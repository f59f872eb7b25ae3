"""More checks of `kvwalls`: what triggers keep, and what PostgreSQL's catalogues must say. Imported for its checks."""

from __future__ import annotations

from typing import Any

from kvwalls import A, B, C, Connection, P, acting, check, refused, worklet_claims

#: Functions that run as the owner; all others run as their caller.
DEFINERS = {
    "private.kv_after_delete", "private.kv_after_insert", "private.kv_after_update", "private.kv_before_delete",
    "private.kv_before_write", "private.kv_lock", "private.token_worklet", "private.worklet_added",
}  # fmt: skip
OURS = "n.nspname = 'private' or n.nspname = 'public' and p.proname like 'kv\\_%'"
#: Table privileges of the roles of the API; those on columns are below.
GRANTS = {
    ("public.worklets", "authenticated"): {"SELECT", "DELETE"},
    ("public.worklet_kv_store", "worklet"): {"SELECT", "DELETE"},
    ("public.worklet_kv_store", "authenticated"): {"SELECT", "DELETE"},
    ("private.kv_usage", "worklet"): {"SELECT"},
    ("private.kv_usage", "authenticated"): {"SELECT"},
    ("private.kv_tombstones", "worklet"): {"SELECT"},
    ("private.kv_tombstones", "authenticated"): {"SELECT"},
}
_WRITABLE = {"worklet_id", "namespace", "key", "value", "expires_at"}
COLUMN_GRANTS = {
    ("public.worklets", "worklet", "SELECT"): {"id", "name", "created_at", "updated_at"},
    ("public.worklets", "authenticated", "INSERT"): {"id", "user_id", "name"},
    ("public.worklets", "authenticated", "UPDATE"): {"name"},
    **{
        ("public.worklet_kv_store", role, privilege): _WRITABLE
        for role in ("worklet", "authenticated")
        for privilege in ("INSERT", "UPDATE")
    },
}
_ROLES = "('worklet', 'authenticated', 'anon', 'authenticator', 'public')"


async def _usage(connection: Connection, worklet: str) -> Any:
    return await connection.fetchrow("select keys, bytes from private.kv_usage where worklet_id = $1", worklet)


async def _counted(connection: Connection, worklet: str) -> Any:
    return await connection.fetchrow(
        "select count(*) as keys,"
        " coalesce(sum(octet_length(namespace) + octet_length(key) + octet_length(value::text)), 0)"
        " as bytes from public.worklet_kv_store where worklet_id = $1", worklet,
    )  # fmt: skip


@check
async def triggers_keep_versions_times_and_counters(connection: Connection) -> None:
    """For writes to the table itself."""
    version = await connection.fetchval("select max(version) from public.worklet_kv_store")
    async with acting(connection, "worklet", worklet_claims(A), keep=True):
        await connection.execute(
            "insert into public.worklet_kv_store (worklet_id, namespace, key, value) values ($1, 'new', 'n', '[1, 2]')",
            A,
        )
        await connection.execute("update public.worklet_kv_store set value = '\"longer than it was\"' where key = 'a'")
        await connection.execute("delete from public.worklet_kv_store where key = 'b'")
    rows = await connection.fetch(
        "select key, version from public.worklet_kv_store where worklet_id = $1 union all"
        " select key, version from private.kv_tombstones where worklet_id = $1", A,
    )  # fmt: skip
    newer = sorted(row["version"] for row in rows if row["key"] != "gone")
    assert len(newer) == len(set(newer)) == 4
    assert newer[0] > version, "each change has a version of its own"
    tombstones = await connection.fetch("select key from private.kv_tombstones where worklet_id = $1 order by 1", A)
    assert [row[0] for row in tombstones] == ["b", "gone"]
    assert await _usage(connection, A) == await _counted(connection, A)
    # Written again, a key has no tombstone.
    async with acting(connection, "worklet", worklet_claims(A), keep=True):
        await connection.execute("select public.kv_set('default', 'gone', '1')")
    tombstones = await connection.fetch("select key from private.kv_tombstones where worklet_id = $1", A)
    assert [row[0] for row in tombstones] == ["b"]


@check
async def triggers_keep_an_entrys_identity(connection: Connection) -> None:
    before = await connection.fetch("select id, created_at from public.worklet_kv_store order by id")
    async with acting(connection, "worklet", worklet_claims(A)):
        for column in ("id", "version", "size", "created_at", "updated_at"):
            await refused(connection, "42501", f"update public.worklet_kv_store set {column} = default")
        for column in ("key", "namespace"):
            await refused(connection, "22023", f"update public.worklet_kv_store set {column} = 'z' where key = 'b'")
    # Even for the owner, who may write all columns.
    await connection.execute(
        "update public.worklet_kv_store set value = '0', id = gen_random_uuid(), created_at = now() - interval '1 day'"
    )
    assert await connection.fetch("select id, created_at from public.worklet_kv_store order by id") == before


@check
async def triggers_keep_quotas_and_sizes(connection: Connection) -> None:
    keys, used = await _usage(connection, A)
    await connection.execute("select public.kv_admin_register($1, $2, '', $3, $4)", A, P, keys + 1, used + 100)
    insert = "insert into public.worklet_kv_store (worklet_id, namespace, key, value) values ($1, 'n', $2, $3)"
    async with acting(connection, "worklet", worklet_claims(A)):
        await refused(connection, "54000", insert, A, "big", '"' + "x" * 200 + '"')
        await refused(
            connection, "54000", f"update public.worklet_kv_store set value = '\"{'x' * 200}\"' where key = 'b'"
        )
        await connection.execute(insert, A, "one", "1")
        await refused(connection, "54000", insert, A, "two", "1")
        await connection.execute("update public.worklet_kv_store set value = '1'")


@check
async def worklets_get_counters_and_go_with_all_they_have(connection: Connection) -> None:
    await connection.execute("delete from public.worklets where id = $1", A)
    for table, column in (("public.worklet_kv_store", "worklet_id"), ("private.kv_usage", "worklet_id"),
                          ("private.kv_tombstones", "worklet_id")):  # fmt: skip
        left = await connection.fetch(f"select distinct {column}::text from {table} order by 1")
        assert [row[0] for row in left] == [B, C], table


@check
async def the_sweep_takes_what_is_over(connection: Connection) -> None:
    await connection.execute("update public.worklet_kv_store set expires_at = now() - interval '1 s' where key = 'b'")
    await connection.execute(
        "update private.kv_tombstones set deleted_at = now() - interval '25 h' where worklet_id = $1", B
    )
    async with acting(connection, "worklet", worklet_claims(A)):
        assert await connection.fetchval("select public.kv_has('default', 'b')") is False
    async with acting(connection, "kv_owner", "", keep=True):
        assert await connection.fetchval("select private.kv_sweep()") == 4
    assert await connection.fetchval("select count(*) from public.worklet_kv_store where key = 'b'") == 0
    assert await connection.fetchval("select swept_version > 0 from private.kv_usage where worklet_id = $1", B)
    left = await connection.fetch("select worklet_id::text, key from private.kv_tombstones order by 1, 2")
    assert [(row[0], row[1]) for row in left] == [(A, "b"), (A, "gone"), (B, "b"), (C, "b"), (C, "gone")]


_OWNED = "worklet_id = ANY (ARRAY( SELECT private.owned_worklets() AS owned_worklets))"
_TOKEN = "( SELECT private.token_worklet() AS token_worklet)"
_UNMIXED, _QUIET = "( SELECT private.kv_unmixed() AS kv_unmixed)", "( SELECT private.kv_claims() AS kv_claims) IS NULL"
_MINE = "user_id = ( SELECT private.kv_person() AS kv_person)"
#: The policy: its table, command, role, whether it only restricts, and its conditions (`with check` the same, or none).
POLICIES = {
    "worklets_worklet": ("worklets", "SELECT", "worklet", False, f"id = {_TOKEN}", False),
    "worklets_person": ("worklets", "ALL", "authenticated", False, _MINE, True),
    "worklets_person_only": ("worklets", "ALL", "authenticated", True, _UNMIXED, True),
    "worklets_keeper": ("worklets", "ALL", "kv_owner", False, _QUIET, True),
    "kv_worklet": ("worklet_kv_store", "ALL", "worklet", False, f"worklet_id = {_TOKEN}", True),
    "kv_person": ("worklet_kv_store", "ALL", "authenticated", False, _OWNED, True),
    "kv_person_only": ("worklet_kv_store", "ALL", "authenticated", True, _UNMIXED, True),
    "kv_keeper": ("worklet_kv_store", "ALL", "kv_owner", False, _QUIET, True),
    "usage_worklet": (
        "kv_usage", "SELECT", "worklet", False,
        "worklet_id = ( SELECT private.kv_claimed_worklet() AS kv_claimed_worklet)", False,
    ),
    "usage_person": ("kv_usage", "SELECT", "authenticated", False, _OWNED, False),
    "usage_person_only": ("kv_usage", "SELECT", "authenticated", True, _UNMIXED, False),
    "usage_keeper": ("kv_usage", "ALL", "kv_owner", False, "true", True),
    "tombstones_worklet": ("kv_tombstones", "SELECT", "worklet", False, f"worklet_id = {_TOKEN}", False),
    "tombstones_person": ("kv_tombstones", "SELECT", "authenticated", False, _OWNED, False),
    "tombstones_person_only": ("kv_tombstones", "SELECT", "authenticated", True, _UNMIXED, False),
    "tombstones_keeper": ("kv_tombstones", "ALL", "kv_owner", False, "true", True),
}  # fmt: skip


def _bare(condition: str | None) -> str | None:
    """Without the outermost parentheses, which PostgreSQL adds."""
    return condition[1:-1] if condition and condition.startswith("(") and not condition.startswith("( ") else condition


@check
async def policies_are_exactly_these(connection: Connection) -> None:
    rows = await connection.fetch(
        "select policyname, tablename, cmd, roles[1]::text as role, cardinality(roles) as many, permissive, qual,"
        " with_check from pg_policies where schemaname in ('public', 'private')"
    )
    found = {}
    for row in rows:
        using, with_check = _bare(row["qual"]), _bare(row["with_check"])
        assert row["many"] == 1
        assert with_check in {using, None}, row["policyname"]
        found[row["policyname"]] = (
            row["tablename"], row["cmd"], row["role"], row["permissive"] == "RESTRICTIVE", using,
            with_check is not None,
        )  # fmt: skip
    assert found == POLICIES


@check
async def every_table_has_row_security_forced(connection: Connection) -> None:
    rows = await connection.fetch(
        "select n.nspname || '.' || c.relname as name, c.relrowsecurity and c.relforcerowsecurity as walled"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind in ('r', 'p') and (n.nspname = 'private' or n.nspname = 'public')"
    )
    assert {row["name"] for row in rows} == {
        "public.worklets", "public.worklet_kv_store", "private.kv_usage", "private.kv_tombstones"
    }  # fmt: skip
    assert all(row["walled"] for row in rows), rows


@check
async def views_look_with_their_readers_eyes(connection: Connection) -> None:
    leaking = await connection.fetch(
        "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('public', 'private') and (c.relkind = 'm' or c.relkind = 'v'"
        " and not coalesce(c.reloptions @> '{security_invoker=on}'"
        " or c.reloptions @> '{security_invoker=true}', false))"
    )
    assert not leaking, leaking


@check
async def functions_run_as_their_callers(connection: Connection) -> None:
    rows = await connection.fetch(
        "select n.nspname || '.' || p.proname as name, p.prosecdef, p.proconfig from pg_proc p"
        f" join pg_namespace n on n.oid = p.pronamespace where {OURS}"
    )
    assert len(rows) > 40
    assert {row["name"] for row in rows if row["prosecdef"]} == DEFINERS
    for row in rows:
        path = "pg_catalog, pg_temp" if row["prosecdef"] else '""'
        assert row["proconfig"] == [f"search_path={path}"], row["name"]
    others = await connection.fetch(
        "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname = 'public' and p.proname not like 'kv\\_%' and p.prosecdef"
    )
    assert not others, others


@check
async def rights_are_exactly_these(connection: Connection) -> None:
    tables = await connection.fetch(
        "select table_schema || '.' || table_name as name, lower(grantee) as grantee, privilege_type"
        f" from information_schema.role_table_grants where lower(grantee) in {_ROLES}"
        " and table_schema in ('public', 'private')"
    )
    found: dict[tuple[str, str], set[str]] = {}
    for row in tables:
        found.setdefault((row["name"], row["grantee"]), set()).add(row["privilege_type"])
    assert found == GRANTS
    columns = await connection.fetch(
        "select n.nspname || '.' || c.relname as name, lower(coalesce(r.rolname, 'public')) as grantee,"
        " x.privilege_type, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " join pg_namespace n on n.oid = c.relnamespace, aclexplode(a.attacl) x"
        " left join pg_roles r on r.oid = x.grantee"
        f" where n.nspname in ('public', 'private') and lower(coalesce(r.rolname, 'public')) in {_ROLES}"
    )
    by_column: dict[tuple[str, str, str], set[str]] = {}
    for row in columns:
        by_column.setdefault((row["name"], row["grantee"], row["privilege_type"]), set()).add(row["attname"])
    assert by_column == COLUMN_GRANTS


@check
async def functions_are_for_these_roles(connection: Connection) -> None:
    rows = await connection.fetch(
        "select p.proname, n.nspname, array_agg(lower(coalesce(r.rolname, 'public'))) as roles from pg_proc p"
        " join pg_namespace n on n.oid = p.pronamespace, aclexplode(p.proacl) x"
        " left join pg_roles r on r.oid = x.grantee"
        f" where ({OURS}) and lower(coalesce(r.rolname, 'public')) in {_ROLES} group by 1, 2"
    )
    for row in rows:
        if row["nspname"] == "public" or row["proname"] == "kv_clear_part":
            expected = {"worklet", "authenticated", "authenticator"}
        elif row["proname"] in {"kv_assume", "kv_revision"}:
            expected = {"authenticator"}
        else:
            expected = {"worklet", "authenticated"}
        assert set(row["roles"]) == expected, (row["proname"], row["roles"])
    assert not [row for row in rows if row["proname"].startswith("kv_admin") or row["proname"] == "kv_sweep"]
    without = await connection.fetch(
        f"select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        f" where ({OURS}) and p.proacl is null"
    )
    assert not without, "functions without grants of their own are everybody's"
    sequences = await connection.fetch(
        "select x.privilege_type from pg_class c, aclexplode(c.relacl) x join pg_roles r on r.oid = x.grantee"
        f" where c.relname = 'kv_version' and r.rolname in {_ROLES}"
    )
    assert not sequences


@check
async def every_trigger_is_on(connection: Connection) -> None:
    rows = await connection.fetch(
        "select tgname, tgenabled::text from pg_trigger where not tgisinternal order by tgname"
    )
    assert [tuple(row) for row in rows] == [
        (name, "O")
        for name in (
            "kv_after_delete",
            "kv_after_insert",
            "kv_after_update",
            "kv_before_delete",
            "kv_before_insert",
            "kv_before_write",
            "worklet_added",
            "worklet_changed",
            "worklet_kept",
            "worklets_limited",
        )
    ]


@check
async def values_are_limited_however_they_come(connection: Connection) -> None:
    insert = "insert into public.worklet_kv_store (worklet_id, namespace, key, value) values ($1, 'n', $2, $3)"
    deep = '{"a":' * 64 + "[" * 64 + '"[[", 1' + "]" * 64 + "}" * 64
    largest = f'[{"1" * 255}, "{"[" * 129}", -{2**1024 - 2**971}]'
    async with acting(connection, "worklet", worklet_claims(A)):
        await connection.execute(insert, A, "deep", deep)
        await connection.execute(insert, A, "largest", largest)
        for value in (f"[{deep}]", f'{{"a": {deep}}}', "[" * 129 + "]" * 129, "1e400", '[{"a": [-1e309]}]'):
            await refused(connection, "22023", insert, A, "bad", value)
            await refused(connection, "22023", "select public.kv_set('n', 'bad', $1)", value)
            await refused(connection, "22023", "select public.kv_append('n', 'bad', $1)", value)
        await refused(connection, "22023", "select public.kv_append('n', 'bad', $1)", deep)


@check
async def service_role_writes_and_administrates(connection: Connection) -> None:
    into = "insert into public.worklet_kv_store (worklet_id, namespace, key, value)"
    # As at Supabase; an owner who is no superuser cannot make it so.
    await connection.execute("alter role service_role bypassrls")
    async with acting(connection, "service_role", {"role": "service_role"}):
        await connection.execute("insert into public.worklets (user_id) values ($1)", P)
        await connection.execute(f"{into} values ($1, 'n', 'k', '1')", B)
        await connection.execute("update public.worklet_kv_store set value = '2', expires_at = now() where key = 'k'")
        await connection.execute("select public.kv_admin_register($1, $2, '', 3, 1000)", B, P)
        assert await connection.fetchval("select public.kv_admin_sweep()") == 1
        assert await connection.fetchval("select count(*) from public.worklet_kv_store where key = 'k'") == 0
        await connection.execute("select public.kv_admin_revoke($1, now())", B)
        await connection.execute("delete from public.worklet_kv_store where worklet_id = $1", A)
        await connection.execute("select public.kv_admin_remove($1)", B)


async def _locked(connection: Connection, worklet: str, statement: str, *values: Any) -> bool:
    """Whether the statement locked the worklet's writers out, though it came to nothing."""
    looked = "select xmax::text from private.kv_usage where worklet_id = $1"
    before = await connection.fetchval(looked, worklet)
    async with acting(connection, "worklet", worklet_claims(A)):
        await refused(connection, "42501 22023 P0001 22012", statement, *values)
    # The mark of who locked it stays after the rollback.
    return bool(before != await connection.fetchval(looked, worklet))


@check
async def whoever_writes_holds_their_worklet(connection: Connection) -> None:
    into = "insert into public.worklet_kv_store (worklet_id, namespace, key, value)"
    # Fails in the last moment before the statement would write counters.
    await connection.execute(
        "create function public.fail() returns trigger language plpgsql set search_path = '' as"
        " 'begin raise exception ''stop''; end';"
        "create trigger kv_last before insert or update or delete on public.worklet_kv_store"
        " for each row execute function public.fail()"
    )
    for statement in (
        f"{into} values ('{A}', 'n', 'k', '1')",
        "update public.worklet_kv_store set value = '7' where key = 'a'",
        "delete from public.worklet_kv_store where key = 'a'",
    ):
        assert await _locked(connection, A, statement), statement
    # The functions before they look at anything.
    assert await _locked(connection, A, "select 1 / public.kv_delete('n', '{none}')")


@check
async def nobody_holds_anothers_worklet(connection: Connection) -> None:
    into = "insert into public.worklet_kv_store (worklet_id, namespace, key, value)"
    for statement in (
        f"{into} values ('{B}', 'n', 'k', '1')",
        f"{into} values ('{B}', 'default', 'a', '1') on conflict do nothing",
        f"update public.worklet_kv_store set worklet_id = '{B}'",
        f"select public.kv_set('n', 'k', '1', p_worklet_id => '{B}')",
    ):
        assert not await _locked(connection, B, statement), statement


@check
async def values_are_limited_as_compact_json(connection: Connection) -> None:
    """Last: it takes a second."""
    insert = "insert into public.worklet_kv_store (worklet_id, namespace, key, value) values ($1, 'n', $2, $3)"
    async with acting(connection, "worklet", worklet_claims(A)):
        await refused(connection, "54000", insert, A, "huge", '"' + "x" * 1_048_575 + '"')
        await connection.execute(insert, A, "compact", "[" + "1," * 524_286 + "1]")
