"""A private PostgreSQL for the tests, from Debian's server programs: one cluster a test run, one database a test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from ports import free_port


def programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class Cluster:
    """A cluster of its own, which can be stopped and started again. `address` is without a database."""

    def __init__(self, **settings: str) -> None:
        """`settings` of the server, beside our own."""
        found = programs()
        assert found is not None
        self._programs = found
        self._settings = settings
        self._account = _unprivileged()
        self._home = Path(tempfile.mkdtemp(prefix="flow-postgres-"))
        if self._account:
            os.chown(self._home, self._account["user"], self._account["group"])
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self.address = f"postgresql://flow@127.0.0.1:{self._port}"

    def make(self) -> None:
        subprocess.run(
            [self._programs / "initdb", "-D", self._home / "data",
             "-U", "flow", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True, capture_output=True, cwd=self._home, **self._account,
        )  # fmt: skip

    async def start(self) -> None:
        """Returns when it answers."""
        own = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": "", "fsync": "off"}
        options = [word for name, value in {**own, **self._settings}.items() for word in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as output:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._home / "data", *options],
                stdout=output, stderr=output, cwd=self._home, **self._account,
            )  # fmt: skip
        async with asyncio.timeout(120):
            while True:
                assert self._server.poll() is None, (self._home / "log").read_text()
                try:
                    connection = await asyncpg.connect(f"{self.address}/postgres")
                except (OSError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.05)
                else:
                    return await connection.close()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is "fast": cuts connections off; SIGQUIT "immediate": like a crash."""
        assert self._server
        self._server.send_signal(how)
        self._server.wait(timeout=120)

    def remove(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    async def make_database(self) -> str:
        """The DSN of an empty one."""
        name = f"test_{secrets.token_hex(6)}"
        connection = await asyncpg.connect(f"{self.address}/postgres")
        try:
            await connection.execute(f"create database {name}")
        finally:
            await connection.close()
        return f"{self.address}/{name}"


@contextlib.contextmanager
def cluster(**settings: str) -> Iterator[str]:
    """Like `postgres_server`; the benchmarks use it too."""
    running = Cluster(**settings)
    try:
        running.make()
        asyncio.run(running.start())
        yield running.address
    finally:
        running.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a running cluster, without a database: "postgresql://flow@127.0.0.1:<port>"."""
    if programs() is None:
        pytest.skip("PostgreSQL's server programs are missing: make provision")
    with cluster() as address:
        yield address


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
