"""What sessions that sleep cost: memory of `flow serve` with ten thousand of them in its table, and with none.

Measured a few seconds after the program is ready: by then the reaper has made its first pass.
"""

from __future__ import annotations

import asyncio
from statistics import median

from benchmarks import rows
from benchmarks.harness import Row, megabytes, milliseconds, say
from benchmarks.program import World, running

SLEEPING = 10_000
_SETTLE_SECONDS = 4.0


async def measure(quick: bool) -> list[Row]:
    runs = 2 if quick else 5
    none, many = [], []
    for number in range(runs):
        say(f"memory: run {number + 1} of {runs}")
        async with running("local") as world:
            none.append(await _restarted(world))
            await world.end()
            await asyncio.to_thread(rows.in_sqlite, world.share / "db.sqlite", SLEEPING)
            many.append(await _restarted(world))
    rss, without = median(m[0] for m in many), median(m[0] for m in none)
    each = (rss - without) / SLEEPING
    noise = max(m[0] for m in none) - min(m[0] for m in none)
    return [
        Row(
            f"memory with {SLEEPING:,} sleeping sessions",
            f"{megabytes(rss)} resident, {megabytes(median(m[1] for m in many))} proportional",
            f"with none: {megabytes(without)}, {megabytes(median(m[1] for m in none))}; "
            f"{each:+.2f} KB a session (runs with none differ by {noise} KB)",
        ),
        Row(
            f"flow serve → ready with {SLEEPING:,} sleeping sessions",
            milliseconds(median(m[2] for m in many)),
            f"with none: {milliseconds(median(m[2] for m in none))}",
        ),
    ]


async def _restarted(world: World) -> tuple[int, int, float]:
    """RSS and PSS in KiB, and seconds until it was ready, of a process that found its schema made."""
    await world.end()
    await world.start()
    await asyncio.sleep(_SETTLE_SECONDS)
    return world.rss(), world.pss(), world.ready_after
