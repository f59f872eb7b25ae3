"""Supabase's own programs for the tests: @supabase/lite (its REST API over a real PostgreSQL) and its CLI.

@supabase/lite is an alpha. It must be a superuser, and at its first request it grants everything on all tables of
every schema that has a table with row level security, which would void our own grants. So it is asked once while
nobody can grant; after that it works with the grants that it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import tables
from ports import free_port

HERE = Path(__file__).parent / "supabase"
PROGRAMS = HERE / "node_modules"
CLI = PROGRAMS / ".bin" / "supabase"
_LITE = PROGRAMS / "@supabase" / "lite" / "dist" / "cli" / "index.js"
_START_SECONDS = 60.0
_installed: list[str] = []

T = TypeVar("T")


def install() -> None:
    """The programs of tests/supabase/package-lock.json, once; several processes may ask at the same time."""
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    stamp = PROGRAMS / ".installed"
    here = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(here, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        began = time.monotonic()
        npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
        done = subprocess.run(npm, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        stamp.write_text(wanted)
        _installed.append(f"npm installed them in {time.monotonic() - began:.1f} s")
    finally:
        os.close(here)


def _told() -> list[tables.Table]:
    return [("Supabase's programs", _installed)] if _installed else []


tables.providers.append(_told)


@dataclass(frozen=True, slots=True)
class SupabaseLite:
    """A running one. `publishable_key` is the platform's anon key of today, `secret_key` its service role key."""

    url: str
    dsn: str
    publishable_key: str
    secret_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)


@contextlib.contextmanager
def running(dsn: str) -> Iterator[SupabaseLite]:
    """On a migrated database, which `dsn` opens as a superuser."""
    install()
    with tempfile.TemporaryDirectory(prefix="flow-supabase-") as at:
        lite, port = _project(Path(at), dsn)
        before = asyncio.run(_with(dsn, _grants))
        with _server(Path(at), port):
            asyncio.run(_with(dsn, _forbid_grants))
            _first_request(lite)
            asyncio.run(_with(dsn, _as_on_the_platform))
            assert asyncio.run(_with(dsn, _grants)) == before
            yield lite


def _project(at: Path, dsn: str) -> tuple[SupabaseLite, int]:
    port = free_port()
    lite = SupabaseLite(
        url=f"http://127.0.0.1:{port}",
        dsn=dsn,
        publishable_key="sb_publishable_" + secrets.token_urlsafe(24),
        secret_key="sb_secret_" + secrets.token_urlsafe(24),
        jwt_secret=secrets.token_urlsafe(48),
    )
    (at / "supabase").mkdir()
    # TOML's basic strings are JSON's.
    (at / "supabase" / "config.toml").write_text(f"""
[api]
port = {port}
max_rows = 1000
[db]
driver = "postgres"
url = {json.dumps(dsn)}
[auth]
enabled = true
jwt_secret = {json.dumps(lite.jwt_secret)}
publishable_key = {json.dumps(lite.publishable_key)}
secret_key = {json.dumps(lite.secret_key)}
""")
    return lite, port


@contextlib.contextmanager
def _server(at: Path, port: int) -> Iterator[None]:
    log = at / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["node", _LITE, "start", "--no-admin", "--no-telemetry"],
            cwd=at, env=_environment(at), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            _wait(server, port, log)
            yield
        finally:
            _stop(server)


def _environment(home: Path) -> dict[str, str]:
    """Nothing of the machine's, and no messages home."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LITE_TELEMETRY": "0", "DO_NOT_TRACK": "1"}


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end, f"it did not start: {log.read_text()}"
        time.sleep(0.02)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """It and whatever it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)


def ask(method: str, url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status, and the JSON that came back."""
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, sent, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read() or "null")


def post(url: str, body: Any, **headers: str) -> tuple[int, Any]:
    return ask("POST", url, body, **headers)


def _first_request(lite: SupabaseLite) -> None:
    """It fails, because the grants that come with it are forbidden; those after it are served."""
    request = urllib.request.Request(f"{lite.url}/rest/v1/worklets", headers={"apikey": lite.publishable_key})
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=60) as answer:
        raise AssertionError(f"it grants what it likes: {answer.read()!r}")


async def _with(dsn: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    connection = await asyncpg.connect(dsn)
    try:
        return await work(connection)
    finally:
        await connection.close()


_FORBID = """
create schema harness;
create function harness.refuse() returns event_trigger language plpgsql as $$ begin raise 'not now'; end $$;
create event trigger no_grants on ddl_command_start when tag in ('GRANT', 'ALTER DEFAULT PRIVILEGES')
  execute function harness.refuse();
"""

#: What a Supabase project has under these names; @supabase/lite brings its own at each start.
_PLATFORM = """
drop event trigger no_grants;
drop schema harness cascade;
create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), ''))::jsonb $$;
create or replace function auth.uid() returns uuid language sql stable as $$
  select nullif(auth.jwt() ->> 'sub', '')::uuid $$;
create or replace function auth.role() returns text language sql stable as $$ select auth.jwt() ->> 'role' $$;
"""


async def _forbid_grants(connection: asyncpg.Connection) -> None:
    await connection.execute(_FORBID)


async def _as_on_the_platform(connection: asyncpg.Connection) -> None:
    await connection.execute(_PLATFORM)


async def _grants(connection: asyncpg.Connection) -> list[str]:
    """Who may do what with what lies in our schemas, and with what will be made there."""
    return [row[0] for row in await connection.fetch(_GRANTS)]


_GRANTS = """
with ours as (select oid, nspname, nspacl from pg_namespace where nspname in ('public', 'private'))
select format('%s %s', o.nspname, o.nspacl) from ours o
union all
select format('%s %s %s', o.nspname, c.relname, c.relacl) from pg_class c join ours o on o.oid = c.relnamespace
union all
select format('%s %s %s', a.attrelid::regclass, a.attname, a.attacl) from pg_attribute a where a.attacl is not null
union all
select format('%s %s', p.oid::regprocedure, p.proacl) from pg_proc p join ours o on o.oid = p.pronamespace
union all
select format('%s %s %s', d.defaclnamespace, d.defaclobjtype, d.defaclacl) from pg_default_acl d
order by 1
"""
