"""Stores of many rows with their gateway in a process of its own, and what the policies of PostgreSQL cost."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from benchmarks.harness import Row, say
from benchmarks.kvclients import ROWS, Tenant
from benchmarks.kvfloors import BATCH, PAGE, VALUE, key, row
from benchmarks.kvload import Figure, drive, middle
from benchmarks.program import ROOT
from kvstore.gateway.backend import Backend
from kvstore.gateway.callers import Caller
from kvstore.gateway.functions import validated

if TYPE_CHECKING:
    from kvserving import Source

# The gateway in a process of its own, and the private cluster, are the tests' own.
sys.path.append(str(ROOT / "tests"))

CLIENTS = 32
_ALIVE_SECONDS = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Stocked:
    """A running gateway: `tenants[0]` holds all the rows. `floor_dsn`: a database for what stands beside."""

    source: Source
    tenants: list[Tenant]
    url: str
    path: str
    floor_dsn: str = ""


@asynccontextmanager
async def stocked_sqlite(home: Path, size: int) -> AsyncIterator[Stocked]:
    from kvserving import Source

    source = Source("sqlite", str(home / "kv.sqlite"), str(home / "key.pem"), max_keys=2 * size + 10_000)
    async with _serving(source, home, size) as stocked:
        yield stocked


@asynccontextmanager
async def stocked_postgres(home: Path, size: int) -> AsyncIterator[Stocked]:
    """A cluster of its own, which syncs each commit."""
    from kvpostgres import postgres_source
    from postgres import Cluster

    cluster = Cluster(fsync="on")
    try:
        await asyncio.to_thread(cluster.make)
        await cluster.start()
        source = await postgres_source(cluster.address, await cluster.make_database(), str(home / "pg-key.pem"))
        async with _serving(replace(source, max_keys=2 * size + 10_000), home, size) as stocked:
            yield replace(stocked, floor_dsn=await cluster.make_database())
    finally:
        cluster.remove()


@asynccontextmanager
async def _serving(source: Source, home: Path, size: int) -> AsyncIterator[Stocked]:
    from kvserving import Program

    ids = [await source.register(max_bytes=4 << 30) for _ in range(CLIENTS)]
    await _fill(source, ids[0], size)
    key = source.signing_key
    program = Program(source, path=str(home / f"{source.kind}.sock"))
    await program.start()
    try:
        tenants = [Tenant(one, key.mint_worklet(one, ttl=_ALIVE_SECONDS)) for one in ids]
        yield Stocked(source, tenants, program.url, program.path or "")
    finally:
        await program.end()


async def _fill(source: Source, worklet_id: str, size: int) -> None:
    backend = await source.backend()
    value = json.loads(VALUE)
    try:
        caller = Caller.of_worklet(worklet_id)
        for start in range(0, size, BATCH):
            entries = json.dumps({row(number): value for number in range(start, min(start + BATCH, size))})
            await backend.call(caller, "kv_mset", validated("kv_mset", {"p_namespace": ROWS, "p_entries": entries}))
    finally:
        await backend.close()
    if source.admin_place:
        owner = await asyncpg.connect(source.admin_place)
        await owner.execute("vacuum analyze")
        await owner.close()


async def cost_of_policies(stocked: Stocked, runs: int, quick: bool) -> list[Row]:
    """The same calls of the backend, without HTTP, in short bursts with row level security off and on in turns.

    Short, so that what else the machine does falls on both.
    """
    figures: defaultdict[tuple[str, int, bool], list[Figure]] = defaultdict(list)
    backend = await stocked.source.backend()
    owner = await asyncpg.connect(stocked.source.admin_place)
    try:
        bursts = 4 * runs if quick else 10 * runs
        for number in range(bursts):
            say(f"kv: policies, burst {number + 1} of {bursts}")
            for secured in (number % 2 == 0, number % 2 == 1):
                await _switch(owner, secured)
                for clients in (1, CLIENTS):
                    for name in ("get", "set", "list"):
                        figure = await _in_process(backend, stocked, name, clients, 160)
                        figures[name, clients, secured].append(figure)
    finally:
        await _switch(owner, True)
        await owner.close()
        await backend.close()
    rows = []
    for name in ("get", "set", "list"):
        for clients in (1, CLIENTS):
            bare, held = middle(figures[name, clients, False]), middle(figures[name, clients, True])
            rows.append(
                Row(
                    f"kv {name}, {clients} client{'s' if clients > 1 else ''}, PostgreSQL, policies on",
                    f"{held} = {(held.p50 / bare.p50 - 1) * 100:+.0f} % in the median",
                    f"policies off: {bare}",
                    "< +40 %" if name != "list" else "",
                )
            )
    return rows


async def _switch(owner: asyncpg.Connection, secured: bool) -> None:
    """Every table that has policies, in a database that nobody else uses."""
    tables = await owner.fetch("select distinct format('%I.%I', schemaname, tablename) as name from pg_policies")
    for found in tables:
        await owner.execute(f"alter table {found['name']} {'enable' if secured else 'disable'} row level security")


async def _in_process(backend: Backend, stocked: Stocked, name: str, clients: int, calls: int) -> Figure:
    callers = [Caller.of_worklet(tenant.worklet_id) for tenant in stocked.tenants]

    async def call(number: int, turn: int) -> None:
        if name == "list":
            arguments: dict[str, object] = {"p_namespace": ROWS, "p_cursor": row(turn % 800), "p_limit": PAGE}
            number = 0
        else:
            arguments = {"p_namespace": "default", "p_key": key(turn)}
        if name == "set":
            arguments["p_value"] = VALUE
        await backend.call(callers[number], f"kv_{name}", validated(f"kv_{name}", arguments))

    await asyncio.gather(*(call(number, 0) for number in range(clients)))
    return await drive(call, clients, calls)
