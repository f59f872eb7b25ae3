"""A look at the database before it is used: is the migration there, and are the walls between worklets?

Reads catalogues only. A policy that somebody dropped by hand is found at the next start, before anybody is served.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from kvstore.gateway.errors import Refusal
from kvstore.gateway.postgreserrors import UPGRADE

#: private.kv_revision() of the newest migration.
REVISION: Final = 1

#: The table, its policies, and which of them are restrictive.
_POLICIES: Final = {
    "public.worklets": {"worklets_worklet", "worklets_person", "worklets_person_only", "worklets_keeper"},
    "public.worklet_kv_store": {"kv_worklet", "kv_person", "kv_person_only", "kv_keeper"},
    "private.kv_usage": {"usage_worklet", "usage_person", "usage_person_only", "usage_keeper"},
    "private.kv_tombstones": {"tombstones_worklet", "tombstones_person", "tombstones_person_only", "tombstones_keeper"},
}

_TABLES: Final = """
select n.nspname || '.' || c.relname as name, c.relrowsecurity and c.relforcerowsecurity as walled,
       array(select p.polname::text from pg_catalog.pg_policy p
             where p.polrelid = c.oid and p.polpermissive = (p.polname not like '%\\_only')) as policies
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname || '.' || c.relname = any ($1::text[])
"""

_LOGIN: Final = """
select pg_catalog.has_function_privilege('private.kv_assume(text, text)', 'execute')
   and pg_catalog.pg_has_role('worklet', 'member') and pg_catalog.pg_has_role('authenticated', 'member')
"""


#: Of the login itself. A role that it may only change into is left out: the store changes into the callers' alone.
_POWERS: Final = """
select session_user, rolsuper, rolbypassrls,
       exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
               where n.nspname = 'public' and c.relname in ('worklets', 'worklet_kv_store')
                 and pg_catalog.pg_get_userbyid(c.relowner) = session_user) as owns
from pg_catalog.pg_roles where rolname = session_user
"""


async def powers(connection: asyncpg.Connection) -> str:
    """What the login could do past row level security, as in "its role x is a superuser"; empty for a good one."""
    row = await connection.fetchrow(_POWERS)
    has = {"rolsuper": "is a superuser", "rolbypassrls": "has BYPASSRLS", "owns": "owns the tables"}
    found = next((words for name, words in has.items() if row[name]), "")
    return f"its role {row['session_user']} {found}" if found else ""


async def check_revision(connection: asyncpg.Connection) -> None:
    """Raises Refusal when the migration is missing, older than this program, or newer."""
    try:
        revision = await connection.fetchval("select private.kv_revision()")
    except (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError):
        raise _refusal(f"The database has no key-value store yet. {UPGRADE}") from None
    except asyncpg.InsufficientPrivilegeError:
        raise _refusal(_NO_RIGHT) from None
    if revision < REVISION:
        raise _refusal(f"The database's key-value store is older than this Flow. {UPGRADE}")
    if revision > REVISION:
        raise _refusal("The database's key-value store was made by a newer Flow: bring this one up to date.")


async def check_walls(connection: asyncpg.Connection) -> None:
    """Raises Refusal when a table lacks row level security or a policy, or the login lacks a right."""
    rows = {row["name"]: row for row in await connection.fetch(_TABLES, list(_POLICIES))}
    for table, policies in _POLICIES.items():
        if table not in rows:
            raise _refusal(f"The table {table} is missing. {UPGRADE}")
        if not rows[table]["walled"]:
            raise _refusal(f"Row level security of {table} must be enabled and forced: alter table … force …")
        if policies != set(rows[table]["policies"]):
            changed = ", ".join(sorted(policies.symmetric_difference(rows[table]["policies"])))
            raise _refusal(f"The policies of {table} are not the migration's; look at {changed}.")
    if not await connection.fetchval(_LOGIN):
        raise _refusal(_NO_RIGHT)


_NO_RIGHT: Final = (
    "The login of FLOW_KV_DSN may not act for worklets: use Supabase's `authenticator`, or a role that is granted "
    "`authenticator` and inherits."
)


def _refusal(message: str) -> Refusal:
    return Refusal(503, "PGRST000", message)
