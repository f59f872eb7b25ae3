"""The database fails while people talk: a full disk, a lock of another program, PostgreSQL stops or is silent.

Beside the law: what could not be stored was not acknowledged, whoever gave a command is told, /health says what is
wrong and recovers by itself, the log says it once, and the program goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from chaos_batches import Batch, dealt, in_worlds, runs, small, told
from postgres import Cluster
from proxy import Proxy
from storm import Storm, open_storm
from waiting import until

pytestmark = pytest.mark.timeout(4 * 3600)

_DELAYS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 10, 10)  # Slack's redeliveries, in seconds: beyond the longest outage here

Fault = Callable[[Storm], contextlib.AbstractAsyncContextManager[None]]


@pytest.mark.tmpfs
async def test_the_disk_of_the_database_fills_up(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    async def live(batch: Batch) -> None:
        home = tmp_path / batch.seed.rpartition("/")[2]
        with tmpfs(home / "disk", "24m") as disk:
            dsn = f"sqlite://{disk}/db.sqlite"
            await _live(batch, home, dsn, lambda storm: full(disk), "The disk is full", _outage(pytestconfig, 6))

    reports = await in_worlds(pytestconfig, "disk_fills", "local", ["disk full"] * runs(pytestconfig, 0.1), live)
    assert not reports, told(reports)


@pytest.mark.tmpfs
async def test_the_disk_that_holds_everything_fills_up(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Worklets too: their workspaces, journals and logs, and what Claude keeps of its conversations."""

    async def live(batch: Batch) -> None:
        with tmpfs(tmp_path / batch.seed.rpartition("/")[2], "400m") as home:
            data = home / "data"
            await _live(batch, home, "", lambda storm: full(data), "The disk is full", _outage(pytestconfig, 6))

    reports = await in_worlds(pytestconfig, "whole_disk", "local", ["whole disk full"] * runs(pytestconfig, 0.1), live)
    assert not reports, told(reports)


async def test_another_program_locks_the_database(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    async def live(batch: Batch) -> None:
        home = tmp_path / batch.seed.rpartition("/")[2]
        path = home / "data" / "db.sqlite"
        await _live(batch, home, "", lambda storm: locked(path), "holds the database file", _outage(pytestconfig, 30))

    reports = await in_worlds(
        pytestconfig, "database_locked", "local", ["database locked"] * runs(pytestconfig, 0.1), live
    )
    assert not reports, told(reports)


@pytest.mark.postgres
async def test_postgres_stops_and_starts(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    kinds = dealt(pytestconfig, ("PostgreSQL stopped", "PostgreSQL silent"), 0.1, few=1)

    async def live(batch: Batch) -> None:
        home = tmp_path / batch.seed.rpartition("/")[2]
        async with AsyncExitStack() as stack:
            cluster = Cluster()
            stack.callback(cluster.remove)
            await asyncio.to_thread(cluster.make)
            await cluster.start()
            dsn = await cluster.make_database()
            proxy = await stack.enter_async_context(Proxy(dsn))
            dice = random.Random(batch.seed)
            faults: dict[str, Fault] = {
                "PostgreSQL stopped": lambda storm: stopped(cluster, dice.choice((signal.SIGINT, signal.SIGQUIT))),
                "PostgreSQL silent": lambda storm: silent(proxy),
            }
            await _live(batch, home, proxy.dsn, faults, "PostgreSQL", _outage(pytestconfig, 8), really=dsn)

    reports = await in_worlds(pytestconfig, "postgres_stops", "local", kinds, live)
    assert not reports, told(reports)


def _outage(config: pytest.Config, seconds: float) -> float:
    """How long it lasts at most: what `make test` can wait for, else as long as asked for."""
    return min(seconds, 4) if small(config) else seconds


# ---- one world ----


async def _live(
    batch: Batch, home: Path, dsn: str, fault: Fault | dict[str, Fault], sentence: str, seconds: float, really: str = ""
) -> None:
    """`really`: where the law reads, when the program goes through a proxy."""
    env = {"FLOW_DSN": dsn} if dsn else {}
    async with open_storm("local", batch.seed, home, retry_delays=_DELAYS, **env) as storm:
        storm.law.dsn = really or dsn
        await storm.program.start()
        for kind in batch.kinds:
            tally = batch.tally(kind)
            tally.runs += 1
            begun = fault[kind] if isinstance(fault, dict) else fault
            tally.hits += await _strike(storm, begun, sentence, seconds)
            violations = [*await storm.judge(), *await _recovered(storm)]
            if violations:
                batch.broken(kind, violations, storm.log)
                return
        if violations := await storm.end():
            batch.broken(batch.kinds[-1], violations, storm.log)


async def _strike(storm: Storm, fault: Fault, sentence: str, seconds: float) -> bool:
    """True: somebody was waiting for an answer as it began."""
    dice, program, slack = storm.random, storm.program, storm.world.slack
    await storm.talk(dice.randint(2, 4))
    await asyncio.sleep(dice.uniform(0, 1.5))
    hit = bool(await storm.law.unfinished())
    said = _said(storm)
    async with fault(storm):
        over = asyncio.get_running_loop().time() + dice.uniform(0.5, 1) * seconds
        for _ in range(dice.randint(1, 3)):
            await slack.post("maya", "general", f"@Flow {storm._prompt()}")
        await until(lambda: _says(storm, sentence), what=f"/health to say {sentence!r}")
        told = await slack.command("jonas", "engineering", "/flow", "are you there?")
        assert told.ok, "a command is acknowledged, with a sentence"
        assert sentence in json.dumps(told.ack), told
        await asyncio.sleep(max(0.0, over - asyncio.get_running_loop().time()))
        assert program.alive
    assert _said(storm) <= said + 1, "an outage is told once:\n" + "".join(program.output[-200:])
    return hit


def _said(storm: Storm) -> int:
    """Warnings about the database so far."""
    lines = [line for line in storm.program.output if '"level": "warning"' in line or "[warning" in line]
    return sum("does not serve" in line for line in lines)


async def _says(storm: Storm, sentence: str) -> bool:
    status, body = await storm.program.health()
    part = body["database"]
    return status == 503 and part["state"] == "down" and sentence in part["error"]


async def _recovered(storm: Storm) -> list[str]:
    """Nobody has done anything about it."""
    _, body = await storm.program.health()
    return [] if body["database"]["state"] == "ok" else [f"/health still says {body['database']}"]


# ---- faults ----


@contextmanager
def tmpfs(at: Path, size: str) -> Iterator[Path]:
    at.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@asynccontextmanager
async def full(disk: Path) -> AsyncIterator[None]:
    """Not one byte is left; and the write-ahead log, which is written over and over, must grow to be written."""
    await until(lambda: _emptied_log(disk / "db.sqlite"))
    filler = disk / "filler"
    await asyncio.to_thread(_fill, filler)
    try:
        yield
    finally:
        filler.unlink()


def _emptied_log(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path, timeout=1)) as connection:
        busy, *_ = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
        return not busy


def _fill(filler: Path) -> None:
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (1024 * 1024, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, b"x" * size)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            os.write(descriptor, b"x")
    finally:
        os.close(descriptor)


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """As `sqlite3 db.sqlite` in a terminal would, with a transaction left open."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as other:
        other.execute("begin immediate")
        yield


@asynccontextmanager
async def stopped(cluster: Cluster, how: signal.Signals) -> AsyncIterator[None]:
    await asyncio.to_thread(cluster.stop, how)
    try:
        yield
    finally:
        await cluster.start()


@asynccontextmanager
async def silent(proxy: Proxy) -> AsyncIterator[None]:
    """The network swallows everything, and nobody is told."""
    proxy.cut()
    try:
        yield
    finally:
        proxy.mend()
