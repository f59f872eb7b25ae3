"""The key-value store: calls a second and what one takes, beside the floor of the same backend and beside Redis."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import Row, ratio, say
from benchmarks.kvclients import Tenant, async_clients, client, over_http
from benchmarks.kvfloors import postgres_floor, redis_floor, sqlite_floor
from benchmarks.kvload import BlockingCall, Call, Figure, drive, drive_here, middle
from benchmarks.kvredis import has_redis, redis, redis_over_http
from benchmarks.kvstores import CLIENTS, Stocked, cost_of_policies, stocked_postgres, stocked_sqlite
from benchmarks.sweep import has_postgres

OPERATIONS = ("get", "set", "mset", "list", "increment")
_NAMES = {
    "get": "get", "set": "set", "mset": "mset of 1,000", "list": "list of 100", "increment": "increment of one key",
}  # fmt: skip
#: What is measured with 32 clients has so many more calls; mset has a fiftieth of all.
_CALLS = {1: 1500, CLIENTS: 6400}
_SHORT = {1: 200, CLIENTS: 640}
_AIMS = {
    ("SQLite", "set", CLIENTS): "≥ 8,000/s, p99 < 10 ms",
    ("SQLite", "list", 1): "< 3 ms",
    ("PostgreSQL", "list", 1): "< 3 ms",
}
Measure = Callable[[str, int, int], Awaitable[Figure | None]]


@dataclass
class Ways:
    """Ways to do the same operations, each measured in turn with all others."""

    backend: str
    ways: dict[str, Measure] = field(default_factory=dict)
    figures: defaultdict[tuple[str, str, int], list[Figure]] = field(default_factory=lambda: defaultdict(list))

    async def run(self, short: bool) -> None:
        for clients in (1, CLIENTS):
            for operation in OPERATIONS:
                calls = (_SHORT if short else _CALLS)[clients] // (50 if operation == "mset" else 1)
                for way, measure in self.ways.items():
                    figure = await measure(operation, clients, max(calls, clients))
                    if figure is not None:
                        self.figures[way, operation, clients].append(figure)

    def of(self, way: str, operation: str, clients: int) -> Figure | None:
        found = self.figures[way, operation, clients]
        return middle(found) if found else None


async def measure(quick: bool) -> list[Row]:
    runs, size = (1, 20_000) if quick else (3, 1_000_000)
    rows = []
    with tempfile.TemporaryDirectory(prefix="flow-kv-bench-") as home:
        async with AsyncExitStack() as stack:
            beside = await _redis(stack, Path(home)) if has_redis() else {}
            rows += await _sqlite(Path(home), beside, size, runs, quick)
        if has_postgres():
            rows += await _postgres(Path(home), size, runs, quick)
    return rows


async def _sqlite(home: Path, beside: Mapping[str, Measure], size: int, runs: int, quick: bool) -> list[Row]:
    async with AsyncExitStack() as stack:
        say(f"kv: SQLite, writing {size:,} rows")
        stocked = await stack.enter_async_context(stocked_sqlite(home, size))
        floor = stack.enter_context(sqlite_floor(home / "floor.sqlite", size))
        ways = Ways("SQLite", {**_gateway(stocked), "raw sqlite3, one thread": _here(floor), **beside})
        await _repeat(ways, runs, quick)
    return _rows(ways, "raw sqlite3, one thread")


async def _postgres(home: Path, size: int, runs: int, quick: bool) -> list[Row]:
    async with AsyncExitStack() as stack:
        say(f"kv: PostgreSQL, writing {size:,} rows")
        stocked = await stack.enter_async_context(stocked_postgres(home, size))
        floor = await stack.enter_async_context(postgres_floor(stocked.floor_dsn, size, CLIENTS))
        ways = Ways("PostgreSQL", {**_gateway(stocked), "asyncpg alone": _loop(floor)})
        await _repeat(ways, runs, quick)
        return _rows(ways, "asyncpg alone") + await cost_of_policies(stocked, runs, quick)


async def _repeat(ways: Ways, runs: int, quick: bool) -> None:
    for number in range(runs):
        say(f"kv: {ways.backend}, run {number + 1} of {runs}")
        await ways.run(quick)


def _gateway(stocked: Stocked) -> dict[str, Measure]:
    """The ways through the gateway; connections are made anew for each measurement, before its clock runs."""
    url, path = stocked.url, stocked.path

    async def tcp(operation: str, clients: int, calls: int) -> Figure:
        async with over_http(stocked.tenants[:clients], url=url) as found:
            return await _driven(found, operation, clients, calls)

    async def unix(operation: str, clients: int, calls: int) -> Figure:
        async with over_http(stocked.tenants[:clients], path=path) as found:
            return await _driven(found, operation, clients, calls)

    async def own(operation: str, clients: int, calls: int) -> Figure:
        if clients > 1:
            async with async_clients(stocked.tenants[:clients], url) as found:
                return await _driven(found, operation, clients, calls)
        return await asyncio.to_thread(_blocking, stocked.tenants[0], url, operation, calls)

    return {"Unix socket": unix, "TCP": tcp, "our Python client": own}


def _blocking(tenant: Tenant, url: str, operation: str, calls: int) -> Figure:
    with client(tenant, url) as found:
        found[operation](0, 0)
        return drive_here(found[operation], calls)


async def _driven(found: Mapping[str, Call], operation: str, clients: int, calls: int) -> Figure:
    """After a call of each client, which opens its connection."""
    await asyncio.gather(*(found[operation](number, 0) for number in range(clients)))
    return await drive(found[operation], clients, calls)


def _here(found: Mapping[str, BlockingCall]) -> Measure:
    """In this thread: sqlite3's connection belongs to it. It is one thread, however many clients there are."""

    async def measure(operation: str, _clients: int, calls: int) -> Figure | None:
        return drive_here(found[operation], calls)

    return measure


def _loop(found: Mapping[str, Call]) -> Measure:
    async def measure(operation: str, clients: int, calls: int) -> Figure | None:
        return await _driven(found, operation, clients, calls) if operation in found else None

    return measure


async def _redis(stack: AsyncExitStack, home: Path) -> dict[str, Measure]:
    """Redis by its own protocol, and behind the same HTTP server."""
    port = await stack.enter_async_context(redis())
    direct = await stack.enter_async_context(redis_floor(port, CLIENTS))
    path = str(home / "redis.sock")
    await stack.enter_async_context(redis_over_http(port, path))
    tenants = [Tenant("", "none")] * CLIENTS

    async def http(operation: str, clients: int, calls: int) -> Figure | None:
        if operation == "list":
            return None
        async with over_http(tenants[:clients], path=path) as found:
            return await _driven(found, operation, clients, calls)

    return {"Redis": _loop(direct), "Redis over HTTP": http}


_BESIDE = ("raw sqlite3, one thread", "asyncpg alone", "Redis", "Redis over HTTP")


def _rows(ways: Ways, floor: str) -> list[Row]:
    rows = []
    for operation in OPERATIONS:
        for clients in (1, CLIENTS):
            beside = [(way, ways.of(way, operation, clients)) for way in _BESIDE if way in ways.ways]
            words = "; ".join(f"{way}: {figure}" for way, figure in beside if figure)
            bottom = ways.of(floor, operation, clients)
            for way in ("Unix socket", "TCP", "our Python client"):
                figure = ways.of(way, operation, clients)
                assert figure is not None
                assert bottom is not None
                who = "1 client" if clients == 1 else f"{clients} clients"
                rows.append(
                    Row(
                        f"kv {_NAMES[operation]}, {who}, {ways.backend}, {way}",
                        f"{figure} = {ratio(figure.rate, bottom.rate)} floor",
                        words if way == "Unix socket" else "",
                        _AIMS.get((ways.backend, operation, clients), "") if way == "Unix socket" else "",
                    )
                )
    return rows
