"""What the model gateway adds: to the first byte of an answer, and to the events of many answers at once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp

from benchmarks.harness import Row, milliseconds, percentile, ratio, say
from benchmarks.program import ROOT
from worklets.gatewayclient import GatewayClient
from worklets.gatewaymodel import Credential
from worklets.identity import Identity
from worklets.sockets import short_path

#: The Messages API at its quickest: an answer begins at once; with `x-events` it has so many, 20 a second, each telling
#: when it was written.
UPSTREAM = """
import asyncio, json, sys, time
from aiohttp import web

async def answer(request):
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    start = {"type": "message_start", "message": {"id": "m", "model": "sonnet", "usage": {"input_tokens": 9}}}
    await response.write(b"event: message_start\\ndata: " + json.dumps(start).encode() + b"\\n\\n")
    for _ in range(int(request.headers.get("x-events", 0))):
        await asyncio.sleep(0.05)
        told = json.dumps({"type": "content_block_delta", "at": time.monotonic(), "text": "a dozen or so words of it"})
        await response.write(b"event: content_block_delta\\ndata: " + told.encode() + b"\\n\\n")
    return response

async def main():
    app = web.Application()
    app.router.add_post("/v1/messages", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
STREAMS, WORKLETS = 200, ("a", "b", "c", "d")


async def measure(quick: bool) -> list[Row]:
    requests, events = (50, 20) if quick else (1_000, 200)
    async with _upstream() as url, _gateway(url) as doors, AsyncExitStack() as stack:
        plain = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        through = [
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, limit=0), headers={"x-api-key": token})
            for path, token in doors
        ]
        for http in (plain, *through):
            await stack.enter_async_context(http)
        ways = {"direct": ([plain], url), "gateway": (through, "http://gateway")}
        firsts: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(requests + 20):
            for name, (https, base) in ways.items():
                took = await _first_byte(https[0], base)
                if number >= 20:  # connections and code are warm
                    firsts[name].append(took)
        late = {}
        for name, (https, base) in ways.items():
            say(f"gateway: {STREAMS} streams, {name}")
            late[name] = [delay for one in await _streams(https, base, events) for delay in one]
    added = median(firsts["gateway"]) - median(firsts["direct"])
    fifty, ninety_nine = (percentile(late["gateway"], percent) for percent in (50, 99))
    return [
        Row(
            "gateway, first byte",
            f"{milliseconds(median(firsts['gateway']))}, {milliseconds(added)} added",
            f"direct: {milliseconds(median(firsts['direct']))}",
            "under 5 ms added",
        ),
        Row(
            f"gateway, {STREAMS} streams at once, 20 events a second each",
            f"{len(late['gateway']):,} events, late by {milliseconds(fifty)}, 99 %: {milliseconds(ninety_nine)}",
            f"direct: {milliseconds(percentile(late['direct'], 50))}, {milliseconds(percentile(late['direct'], 99))}; "
            f"{ratio(fifty, percentile(late['direct'], 50))}",
        ),
    ]


async def _first_byte(http: aiohttp.ClientSession, base: str) -> float:
    began = time.perf_counter()
    async with http.post(f"{base}/v1/messages", json={"model": "m", "stream": True}) as answer:
        await answer.content.readany()
        took = time.perf_counter() - began
        await answer.read()
    return took


async def _streams(https: Sequence[aiohttp.ClientSession], base: str, events: int) -> list[list[float]]:
    """How late each event of each stream came, in seconds."""

    async def one(number: int) -> list[float]:
        late, http = [], https[number % len(https)]
        async with http.post(f"{base}/v1/messages", json={}, headers={"x-events": str(events)}) as answer:
            async for line in answer.content:
                if b'"at"' in line:
                    late.append(time.monotonic() - json.loads(line[6:])["at"])
        assert len(late) == events
        return late

    return list(await asyncio.gather(*(one(number) for number in range(STREAMS))))


@asynccontextmanager
async def _upstream() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UPSTREAM, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _gateway(upstream: str) -> AsyncIterator[list[tuple[str, str]]]:
    """The real process: the paths of worklets' sockets there, and their tokens.

    One worklet may hold 64 connections to the model, so the streams come through doors of several.
    """
    with TemporaryDirectory() as directory, ExitStack() as paths:
        share_dir, identity = Path(directory), Identity.load(Path(directory))
        client = GatewayClient(
            share_dir, identity, upstream, Credential(api_key="sk-ant-bench"), environ=dict(os.environ)
        )
        try:
            doors = []
            for name in WORKLETS:
                run_dir = share_dir / "worklets" / name / "run"
                run_dir.mkdir(parents=True)
                await client.open(name, run_dir)
                path = paths.enter_context(short_path(run_dir, "gateway.sock"))
                doors.append((path, identity.token("gateway", name)))
            yield doors
        finally:
            for name in WORKLETS:
                await client.close(name)
            await client.aclose()
