"""Independent tools look at the store's row level security: `pgrls lint`, and `rls-policy-tester` with roles."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncpg
import kvwalls
import pytest
from postgres import postgres_server  # noqa: F401 - fixture

pytestmark = pytest.mark.postgres

TESTS = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def database(postgres_server: str) -> str:  # noqa: F811
    """Throw-away: rls-policy-tester's bundled controls would drop the schema public, were they asked for."""

    async def make() -> str:
        superuser, _ = await kvwalls.make_owned_database(postgres_server)
        await change(superuser, kvwalls.seed)
        return superuser

    return asyncio.run(make())


async def change(dsn: str, how: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await (connection.execute(how) if isinstance(how, str) else how(connection))  # type: ignore[operator]
    finally:
        await connection.close()


def lint(dsn: str) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / "pgrls", "lint", "--database-url", dsn, "--config", TESTS / "pgrls.toml"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def check_policies(dsn: str) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / "rls-policy-tester", "--dsn", dsn, "-f", TESTS / "kv_rls_checks.json", "--no-setup", "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_pgrls_finds_nothing_but_what_is_answered(database: str) -> None:
    done = lint(database)
    assert "no issues found" in done.stdout + done.stderr, done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("mutant", [
    "alter table public.worklet_kv_store no force row level security",
    "alter policy kv_worklet on public.worklet_kv_store using (true)",
    "alter function public.kv_get(text, text, uuid) security definer",
])  # fmt: skip
def test_pgrls_finds_mutants(database: str, mutant: str) -> None:
    asyncio.run(change(database, mutant))
    assert "no issues found" not in lint(database).stdout


def test_rls_policy_tester_agrees(database: str) -> None:
    done = check_policies(database)
    assert done.returncode == 0, done.stdout
    assert "0 errored" in done.stdout or "errored" not in done.stdout


@pytest.mark.parametrize("mutant", [
    "alter policy kv_worklet on public.worklet_kv_store using (true)",
    "alter policy kv_person on public.worklet_kv_store using (true)",
    "alter table public.worklet_kv_store disable row level security",
    "grant truncate on public.worklet_kv_store to worklet",
])  # fmt: skip
def test_rls_policy_tester_finds_mutants(database: str, mutant: str) -> None:
    asyncio.run(change(database, mutant))
    done = check_policies(database)
    assert done.returncode == 1, done.stdout
    assert "RESULT: FAIL" in done.stdout
