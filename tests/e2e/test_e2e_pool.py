"""Worklets that stand ready: a thread begins in one at once, and no kill leaves one that nobody has."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from waiting import until
from world import ROOT, World

from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.runtime import Runtime


async def _pool(world: World) -> dict[str, Any]:
    return dict((await world.program.health())[1]["pool"])


async def _is_full(world: World, ready: int = 1) -> bool:
    pool = await _pool(world)
    return pool["ready"] == ready and not pool["starting"]


def _rows(world: World, query: str) -> list[Any]:
    connection = sqlite3.connect(world.share_dir / "db.sqlite", timeout=10)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_a_thread_begins_in_a_worklet_that_stood_ready(world: World) -> None:
    await world.program.start(FLOW_POOL_SIZE="1")
    await until(lambda: _is_full(world), timeout=60)
    [(waiting,)] = _rows(world, "select name from pool where claimed_by is null")
    [row] = json.loads((await world.program.flow("worklets", "list", "--json")).stdout)
    assert (row["worklet"], row["state"], row["session"]) == (waiting, "ready", None)
    ts = await world.slack.post("maya", "general", "@Flow BASH echo worklet=$FLOW_WORKLET_ID")
    await world.settled(ts, "worklet=")
    [(session, worklet, conversation)] = _rows(world, "select id, worklet, claude_session_id from sessions")
    assert worklet == waiting
    assert session != conversation
    assert any(f"worklet={session}" in text for text in world.thread(ts))
    state = await _pool(world)
    assert (state["handed_out"], state["missed"]) == (1, 0)
    async with aiohttp.ClientSession() as http, http.get(f"{world.program.url}/metrics") as response:
        assert 'flow_pool_handouts_total{start="warm"} 1.0' in await response.text()
    # The pool is filled again, with another one; the thread goes on in its own, also after a restart.
    await until(lambda: _is_full(world), timeout=60)
    await world.program.end(signal.SIGKILL)
    await world.program.start(FLOW_POOL_SIZE="1")
    await until(lambda: _is_full(world), timeout=60)
    await world.slack.post("maya", "general", "RECALL", thread_ts=ts)
    await world.settled(ts, "echo worklet")
    [(again,)] = _rows(world, "select name from pool where claimed_by is null")
    assert again not in (waiting, worklet)
    # Switched off, what stands ready is removed.
    await world.program.end()
    await world.program.start(FLOW_POOL_SIZE="0")
    await until(lambda: not _rows(world, "select name from pool where claimed_by is null or claimed_by = ''"), 60)
    assert worklet in await _names(world)
    assert again not in await _names(world)


_POINTS = (
    "sessions.poolstore:PoolStore.claim:return",  # taken, and not told whose it is
    "worklets.spare:bind:call",
    "worklets.spare:bind:return",  # told, and nothing asked of it yet
    "worklets.agent:Agent.send:return",
)


@pytest.mark.parametrize("runtime", ["local"])
async def test_a_kill_between_claim_and_answer_loses_neither_worklet_nor_message(world: World) -> None:
    for number, point in enumerate(_POINTS):
        await world.program.start(FLOW_POOL_SIZE="1")
        await until(lambda: _is_full(world), timeout=60)
        await world.program.end()
        await _start_trapped(world, point)
        ts = await world.slack.post("maya", "general", f"@Flow SAY survived {number}")
        await _caught(world)
        await world.program.start(FLOW_POOL_SIZE="1")
        await world.settled(ts, f"survived {number}")
        await until(lambda: _is_full(world), timeout=60)
        await world.program.end()
    prompts = [request.prompt for request in world.model.requests if request.prompt.startswith("SAY survived")]
    assert len(prompts) == len(_POINTS)
    await _nothing_left_over(world)


@pytest.mark.parametrize("runtime", ["local"])
async def test_what_a_killed_program_was_making_is_removed(world: World) -> None:
    for point in ("sessions.poolstore:PoolStore.add:return", "worklets.host:WorkletHost.prepare:return"):
        await _start_trapped(world, point)
        await _caught(world)
        [(made,)] = _rows(world, "select name from pool")
        await world.program.start(FLOW_POOL_SIZE="1")
        await until(lambda: _is_full(world), timeout=60)
        assert made not in {name for (name,) in _rows(world, "select name from pool")}
        await world.program.end()
        await world.program.start(FLOW_POOL_SIZE="0")
        await until(lambda: not _rows(world, "select name from pool"), 60)
        await world.program.end()
    await _nothing_left_over(world)


async def test_an_idle_claude_ends_and_its_container_stays(world: World) -> None:
    await world.program.start(FLOW_CLAUDE_IDLE="2s")
    ts = await world.slack.post(
        "maya", "general", "@Flow BASH echo before >note; nohup sleep 1000 >/dev/null 2>&1 & echo $! >pid"
    )
    await world.settled(ts, "")
    [(container,)] = _rows(world, "select container_id from sessions")
    for number in range(2):
        ended = number + 1
        await until(lambda: _log(world).count("Claude's process has ended") == ended, timeout=60)  # noqa: B023
        goes_on = "$(kill -0 $(cat pid) && echo goes on)"
        await world.slack.post("maya", "general", f"BASH echo round{number} $(cat note) {goes_on}", thread_ts=ts)
        await world.settled(ts, f"round{number} before goes on")
        assert _rows(world, "select container_id from sessions") == [(container,)]
    await world.slack.post("maya", "general", "RECALL", thread_ts=ts)
    await world.settled(ts, "echo round0")


@pytest.mark.parametrize("runtime", ["local"])
async def test_a_kill_around_a_rest_loses_nothing(world: World) -> None:
    ts = ""
    for number, point in enumerate(
        ("worklets.rest:rest:call", "worklets.rest:rest:return", "worklets.rest:wake:return")
    ):
        await _start_trapped(world, point, FLOW_POOL_SIZE="0", FLOW_CLAUDE_IDLE="2s")
        if not ts:
            ts = await world.slack.post("maya", "general", "@Flow SAY begun")
            await world.settled(ts, "begun")
        if point.endswith("wake:return"):
            await until(lambda: "Claude's process has ended" in _log(world), timeout=60)
            await world.slack.post("maya", "general", f"SAY survived {number}", thread_ts=ts)
            await _caught(world)
        else:
            await _caught(world)
            await world.slack.post("maya", "general", f"SAY survived {number}", thread_ts=ts)
        await world.program.start()
        await world.settled(ts, f"survived {number}")
        await world.program.end()
    answers = [text for text in world.thread(ts) if "survived" in text and not text.startswith("SAY")]
    assert len(answers) == 3
    await _nothing_left_over(world)


def _log(world: World) -> str:
    return "".join(world.program.output)


async def _start_trapped(world: World, point: str, **settings: str) -> None:
    """Starts the program, which kills itself where it comes by `point`."""
    trap = world.share_dir.parent / "trap.json"
    trap.write_text(json.dumps({"point": point, "times": 1, "signal": "SIGKILL"}))
    program, seen = world.program, len(world.program.output)
    program.process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "tests" / "chaos" / "program.py"), "serve",
        env={**program.env, "FLOW_POOL_SIZE": "1", **settings, "CHAOS_TRAP": str(trap)}, cwd=program.cwd,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    reading = asyncio.create_task(program._read(program.process))
    program._reading = reading
    await until(
        lambda: program.process.returncode is not None or "Flow is ready" in "".join(program.output[seen:]), 120
    )


async def _caught(world: World) -> None:
    assert world.program.process is not None
    assert await asyncio.wait_for(world.program.process.wait(), 120) == -signal.SIGKILL


async def _names(world: World) -> set[str]:
    runtime: Runtime
    identity = Identity.load(world.share_dir)
    if world.runtime == "local":
        runtime = LocalRuntime(share_dir=world.share_dir, identity=identity)
    else:
        from images import IMAGE

        from worklets.docker import DockerRuntime

        runtime = DockerRuntime(share_dir=world.share_dir, identity=identity, image=IMAGE, memory=1 << 30, cpus=1)
    try:
        return {worklet.name for worklet in await runtime.list()} | set(await runtime.volumes())
    finally:
        await runtime.close()


async def _nothing_left_over(world: World) -> None:
    """Each worklet and volume is a session's or stands in the pool."""
    known = {name for (name,) in _rows(world, "select name from pool union select worklet from sessions")}
    assert await _names(world) <= known
