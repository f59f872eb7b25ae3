"""A private PostgreSQL for the tests, from Debian's server programs: one cluster a test run, one database a test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest


def programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a running cluster, without a database: "postgresql://flow@127.0.0.1:<port>"."""
    if programs() is None:
        pytest.skip("PostgreSQL's server programs are missing: make provision")
    with cluster() as address:
        yield address


@contextlib.contextmanager
def cluster(**changes: str) -> Iterator[str]:
    """Like `postgres_server`; the benchmarks use it too. `changes`: settings of the server."""
    found = programs()
    assert found is not None
    account = _unprivileged()
    home = Path(tempfile.mkdtemp(prefix="flow-postgres-"))
    if account:
        os.chown(home, account["user"], account["group"])
    port, data = _free_port(), home / "data"
    subprocess.run(
        [found / "initdb", "-D", data, "-U", "flow", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True, capture_output=True, cwd=home, **account,
    )  # fmt: skip
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off", **changes}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (home / "log").open("wb") as output:
        server = subprocess.Popen(
            [found / "postgres", "-D", data, *options], stdout=output, stderr=output, cwd=home, **account
        )
    try:
        address = f"postgresql://flow@127.0.0.1:{port}"
        asyncio.run(_ready(server, address, home / "log"))
        yield address
    finally:
        server.send_signal(signal.SIGINT)  # "fast": cuts connections off
        server.wait(timeout=20)
        shutil.rmtree(home, ignore_errors=True)


async def _ready(server: subprocess.Popen[bytes], address: str, output: Path) -> None:
    async with asyncio.timeout(30):
        while True:
            assert server.poll() is None, output.read_text()
            try:
                connection = await asyncpg.connect(f"{address}/postgres")
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.05)
            else:
                return await connection.close()


@pytest.fixture
async def postgres_dsn(postgres_server: str) -> AsyncIterator[str]:
    """The DSN of an empty database of this test's own."""
    name = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(f"{postgres_server}/postgres")
    try:
        await connection.execute(f"create database {name}")
        yield f"{postgres_server}/{name}"
        await connection.execute(f"drop database {name} with (force)")
    finally:
        await connection.close()
