"""New threads, cold and from the pool: from `/flow` to the prompt's arrival at the model, side by side with the floor.

Two programs run beside each other, one without a pool and one with; each round asks both, and runs the bare CLI once.
The hand-out alone is taken in this process, with the real pool, table, host and gateway. Memory is what the processes
of a container have for themselves (`Private_Dirty` of proc(5)), as the engine lists them.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import migrations
from benchmarks.first import IMAGE, Times, floor, flow, has_image
from benchmarks.harness import Row, megabytes, milliseconds, percentile, ratio, say
from benchmarks.program import World, running
from sessions.db import open_database
from sessions.poolstore import PoolStore
from sessions.store import Store
from sessions.types import Prompt, ThreadId
from simulator.model import ScriptedModel
from simulator.model_request import is_side_request
from worklets.docker import DockerRuntime
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.pool import Pool
from worklets.runtime import Runtime

_MANY = 50
_MANY_SECONDS = 1_200.0


async def measure(quick: bool) -> list[Row]:
    runtime = "docker" if has_image() else "local"
    rows = await _side_by_side(runtime, 4 if quick else 15)
    rows += await _handouts(runtime, 4 if quick else 15)
    rows += await _many(runtime, 8 if quick else _MANY)
    return rows


@dataclass(slots=True)
class _Round:
    cold: Times = field(default_factory=Times)
    warm: Times = field(default_factory=Times)


async def _side_by_side(runtime: str, rounds: int) -> list[Row]:
    times = _Round()
    most = str(rounds + 4)
    async with (
        running(runtime, FLOW_MAX_SESSIONS=most, FLOW_IMAGE=IMAGE) as cold,
        running(runtime, FLOW_MAX_SESSIONS=most, FLOW_IMAGE=IMAGE, FLOW_POOL_SIZE="1") as warm,
    ):
        await flow(cold, Times(), "warm-up")
        await floor(cold, runtime, "bare warm-up")
        await _is_full(warm)
        memory = await asyncio.to_thread(_private, warm) if runtime == "docker" else None
        for number in range(rounds):
            say(f"{runtime}: round {number + 1} of {rounds}")
            await flow(cold, times.cold, f"cold {number}")
            await _is_full(warm)
            await asyncio.sleep(0.5)
            await flow(warm, times.warm, f"warm {number}")
            await _is_full(warm)
            await asyncio.sleep(0.5)
            times.cold.floor.append(await floor(cold, runtime, f"bare {number}"))
    bare, slow, quick_ = median(times.cold.floor), median(times.cold.prompt), median(times.warm.prompt)
    rows = [
        Row(f"/flow → prompt at the model, cold ({runtime})", milliseconds(slow),
            f"{ratio(slow, bare)} the CLI by hand: {milliseconds(bare)}"),
        Row(f"the same, from the pool ({runtime})",
            f"{milliseconds(quick_)}, worst {milliseconds(max(times.warm.prompt))}",
            f"{ratio(quick_, bare)} floor, {ratio(quick_, slow)} cold", "< 300 ms"),
        Row("reply → prompt at the model, awake", milliseconds(median(times.cold.reply)),
            f"of a thread from the pool: {milliseconds(median(times.warm.reply))}"),
    ]  # fmt: skip
    if memory is not None:
        claude, rest = memory
        rows.append(
            Row(
                "memory of an idle worklet", f"{megabytes(claude + rest)} its own", f"without Claude: {megabytes(rest)}"
            )
        )
    return rows


async def _many(runtime: str, many: int) -> list[Row]:
    """All at once, cold; the engine is the limit."""
    async with running(runtime, FLOW_MAX_SESSIONS=str(many), FLOW_IMAGE=IMAGE) as world:
        await flow(world, Times(), "warm-up")
        say(f"{runtime}: {many} starts at once")
        began = time.monotonic()
        asked = [
            asyncio.create_task(world.slack.command("maya", "general", "/flow", f"SAY many {number}"))
            for number in range(many)
        ]
        arrived = sorted(at - began for at in await _arrivals(world, {f"SAY many {number}" for number in range(many)}))
        await asyncio.gather(*asked)
    return [
        Row(f"{many} `/flow` at once → prompt at the model ({runtime})",
            f"{milliseconds(median(arrived))} median, {milliseconds(percentile(arrived, 95))} p95",
            f"last {milliseconds(arrived[-1])}: {many / arrived[-1]:.1f} starts/s"),
    ]  # fmt: skip


async def _arrivals(world: World, prompts: set[str]) -> list[float]:
    """When each came in, `time.monotonic()`. One look for all of them: what the benchmark takes, the starts lack."""
    found: dict[str, float] = {}
    seen = 0
    async with asyncio.timeout(_MANY_SECONDS):
        while len(found) < len(prompts):
            await asyncio.sleep(0.2)
            new = world.model.requests[seen:]
            seen += len(new)
            for request in new:
                if request.prompt in prompts and not is_side_request(request.body):
                    found.setdefault(request.prompt, request.at)
    return list(found.values())


async def _is_full(world: World) -> None:
    """One stands ready: read from the table, which costs the program nothing."""
    async with asyncio.timeout(600):
        while not await asyncio.to_thread(_ready, world.share / "db.sqlite"):
            await asyncio.sleep(0.1)


def _ready(database: Path) -> bool:
    connection = sqlite3.connect(database, timeout=10)
    try:
        query = "select count(*) from pool where ready_at is not null and claimed_by is null"
        return bool(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


def _private(world: World) -> tuple[int, int]:
    """KiB that Claude's process, and all others of the container, have for themselves, in the worklet that is ready."""
    instance = json.loads((world.share / "instance.json").read_text(encoding="utf-8"))["instance"]
    listed = _docker("ps", "-q", "--filter", f"label=flow.instance={instance}").split()
    claude = rest = 0
    for line in _docker("top", listed[0], "-eo", "pid,comm").splitlines()[1:]:
        pid, name = line.split(maxsplit=1)
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        own = int(next(each for each in rollup if each.startswith("Private_Dirty:")).split()[1])
        if name == "claude":
            claude += own
        else:
            rest += own
    return claude, rest


def _docker(*args: str) -> str:
    return subprocess.run(["docker", *args], capture_output=True, text=True, check=True).stdout


async def _handouts(runtime: str, rounds: int) -> list[Row]:
    claims, binds = [], []
    async with AsyncExitStack() as stack:
        share = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flow-bench-")))
        model = await stack.enter_async_context(ScriptedModel(api_key="k"))
        dsn = f"sqlite://{share}/db.sqlite"
        await migrations.upgrade(dsn)
        database = open_database(dsn)
        stack.push_async_callback(database.close)
        identity = Identity.load(share)
        worklets = _runtime(runtime, share, identity)
        stack.push_async_callback(worklets.close)
        gateway = ModelGateway(model.url, Credential(api_key="k"), identity)
        stack.push_async_callback(gateway.aclose)
        host = WorkletHost(worklets, gateway, identity, share)
        store, rows = Store(database), PoolStore(database)
        pool = Pool(rows, host, (1, 1), alone=True)
        stack.push_async_callback(_clear, host, worklets)
        stack.push_async_callback(pool.aclose)
        pool.start()
        for number in range(rounds):
            say(f"hand-out {number + 1} of {rounds}")
            while not await asyncio.to_thread(_ready, share / "db.sqlite"):
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
            thread = ThreadId("T", "C", f"{number}.0")
            stored = await store.submit(Prompt(thread, f"C:{number}.0", f"{number}.0", "U", "hello"))
            assert stored is not None
            acquired = await store.leases.acquire(stored.submitted.session.id, "benchmark", 60)
            assert acquired is not None
            began = time.perf_counter()
            session = await rows.claim(acquired[0])
            assert session is not None
            claims.append(time.perf_counter() - began)
            agent = await host.open(
                session.worklet, claude_session_id=session.claude_session_id, has_history=False, position=None,
                fence=acquired[0].fence, env={}, repository=None, branch=None, on_step=say,
            )  # fmt: skip
            await agent.ready()
            binds.append(time.perf_counter() - began)
            await agent.close()
        while not await asyncio.to_thread(_ready, share / "db.sqlite"):  # so that nothing is under way at the end
            await asyncio.sleep(0.1)
    return [
        Row(f"hand-out from the pool ({runtime})", f"{milliseconds(median(binds))}, worst {milliseconds(max(binds))}",
            f"the claim by a row: {milliseconds(median(claims))}"),
    ]  # fmt: skip


def _runtime(kind: str, share: Path, identity: Identity) -> Runtime:
    if kind == "docker":
        return DockerRuntime(share_dir=share, identity=identity, image=IMAGE, memory=2 << 30, cpus=2)
    return LocalRuntime(share_dir=share, identity=identity)


async def _clear(host: WorkletHost, runtime: Runtime) -> None:
    for worklet in await runtime.list():
        await host.destroy(worklet.name)
