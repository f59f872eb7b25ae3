"""From an envelope's sending to its acknowledgement, 50 envelopes a second, each of which stores a turn.

The simulator takes the time from the moment it puts an envelope on the socket. The only place is held by a session
that waits, so that no CLI starts meanwhile; all that the program does of its own (the insert, sessions that wait for a
place, their messages in Slack) goes on. Beside it an app that does nothing but acknowledge, between the runs.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median

from benchmarks.harness import Row, middle, milliseconds, percentile, say
from benchmarks.program import ROOT, World, running
from simulator.slack import SlackSimulator

RATE = 50.0  # envelopes a second
_CHANNELS = 20
Post = Callable[[int], Awaitable[object]]


async def measure(quick: bool) -> list[Row]:
    seconds, runs = (5.0, 1) if quick else (20.0, 3)
    floors, found = [], {"mentions": list[list[float]](), "replies": list[list[float]](), "direct": list[list[float]]()}
    for number in range(runs):
        say(f"acknowledgement: run {number + 1} of {runs}")
        floors.append(await _floor(seconds / 2))
        async with running("local", FLOW_MAX_SESSIONS="1") as world:
            roots = await _furnish(world)
            # A mention is two envelopes (app_mention and message), the others are one.
            found["mentions"].append(await _drive(world.slack, RATE / 2, seconds, _mentions(world)))
            found["replies"].append(await _drive(world.slack, RATE, seconds, _replies(world, roots)))
            found["direct"].append(await _drive(world.slack, RATE, seconds, _direct(world)))
    names = {
        "mentions": "mentions, each a new session",
        "replies": "replies in 20 threads",
        "direct": "direct messages, each a new session",
    }
    floor = f"{milliseconds(middle(floors, median))} / {milliseconds(middle(floors, lambda r: percentile(r, 99)))}"
    return [
        Row(
            f"ack at 50/s: {names[kind]}",
            f"{milliseconds(middle(latencies, median))} / {milliseconds(middle(latencies, _p99))} (median / p99)",
            f"an app that only acknowledges: {floor}",
            "p99 < 50 ms",
        )
        for kind, latencies in found.items()
    ]


def _p99(latencies: list[float]) -> float:
    return percentile(latencies, 99)


async def _furnish(world: World) -> list[tuple[str, str]]:
    """Takes the only place, and opens threads to reply in."""
    slack = world.slack
    for number in range(_CHANNELS):
        slack.add_channel(f"c{number}")
    await slack.post("maya", "c0", f"{slack.mention()} HOLD bench")
    async with asyncio.timeout(30):
        await world.model.held("bench")
    roots = [(f"c{n}", await slack.post("maya", f"c{n}", f"{slack.mention()} wait")) for n in range(_CHANNELS)]
    await asyncio.sleep(3)  # the threads' first messages
    return roots


def _mentions(world: World) -> Post:
    mention = world.slack.mention()
    return lambda n: world.slack.post("maya", f"c{n % _CHANNELS}", f"{mention} please look at number {n}")


def _replies(world: World, roots: list[tuple[str, str]]) -> Post:
    def reply(n: int) -> Awaitable[object]:
        channel, root = roots[n % len(roots)]
        return world.slack.post("maya", channel, f"and this too, number {n}", thread_ts=root)

    return reply


def _direct(world: World) -> Post:
    return lambda n: world.slack.post("maya", "dm", f"please look at number {n}")


async def _drive(slack: SlackSimulator, rate: float, seconds: float, post: Post) -> list[float]:
    """Posts at an even pace, whatever comes back; the latency of every acknowledgement."""
    seen, sent, began = len(slack.acks), len(slack.deliveries), time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        await post(number)
    await slack.wait_for(lambda: all(d.acked or d.timed_out for d in slack.deliveries[sent:]), 30)
    await asyncio.sleep(1)
    acks = slack.acks[seen:]
    if late := sum(d.timed_out for d in slack.deliveries[sent:]):
        say(f"  {late} envelopes were not acknowledged within 3 seconds")
    return [ack.latency for ack in acks]


async def _floor(seconds: float) -> list[float]:
    """The same posts to an app that acknowledges and does nothing else."""
    async with SlackSimulator(manifest=ROOT / "manifest.yml") as slack:
        app = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.echo", slack.api_url, slack.app_token, cwd=ROOT
        )
        try:
            await slack.wait_connected()
            return await _drive(slack, RATE / 2, seconds, lambda n: slack.post("maya", "general", f"@Flow number {n}"))
        finally:
            app.kill()
            await app.wait()
