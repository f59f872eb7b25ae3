"""How often what dies: the deaths of one test, dealt out to worlds that live side by side, and what came of them."""

from __future__ import annotations

import asyncio
import itertools
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

SMALL = 4  # bots to kill without --chaos-runs, some of them in containers
_WORLD = 10  # deaths in one world
_SIDE_BY_SIDE = 2  # worlds: most of a run is waiting


@dataclass
class Tally:
    """What came of the runs of one kind."""

    runs: int = 0
    hits: int = 0
    violations: int = 0


tallies: dict[str, Tally] = {}


@dataclass
class Batch:
    """Deaths in one world, one a run. The seed decides everything that is not the machine's own timing."""

    runtime: str
    kinds: Sequence[str]
    seed: str
    again: str
    reports: list[str] = field(default_factory=list)

    def tally(self, kind: str) -> Tally:
        return tallies.setdefault(f"{kind}, {self.runtime}", Tally())

    def broken(self, kind: str, violations: list[str], log: list[str]) -> None:
        """The law was broken: the world is not to be used any more."""
        self.tally(kind).violations += len(violations)
        said = "\n".join(violations)
        self.reports.append(
            f"{kind}, worklets {self.runtime}, seed {self.seed}:\n{said}\nagain: {self.again}\n\n{''.join(log)}"
        )


def small(config: pytest.Config) -> bool:
    return not config.getoption("--chaos-runs")


def runs(config: pytest.Config, share: float) -> int:
    """So many of all runs, at least one."""
    return max(1, round((config.getoption("--chaos-runs") or SMALL) * share))


def dealt(config: pytest.Config, kinds: Sequence[str], share: float, *, few: int) -> list[str]:
    """All kinds of a large run, as often as `share` of its number; the first few of them in a small one."""
    return list(kinds[:few]) if small(config) else list(kinds) * runs(config, share)


def told(reports: Sequence[str]) -> str:
    """All that `in_worlds` returned, to be read."""
    return "\n\n".join(reports)


async def in_worlds(
    config: pytest.Config, name: str, runtime: str, kinds: Sequence[str], live: Callable[[Batch], Awaitable[None]]
) -> list[str]:
    """Lives through one death of each of `kinds`. A report of each world in which the law was broken.

    A world that came to no end (a program that did not start, say) is reported beside the others.
    """
    seed = str(config.getoption("--chaos-seed"))
    worlds = max(_SIDE_BY_SIDE if len(kinds) > 3 else 1, -(-len(kinds) // _WORLD))
    batches = []
    for number in range(worlds):
        own = f"{seed.partition('/')[0]}/{name}/{number}"
        again = f"make chaos RUNS={config.getoption('--chaos-runs') or SMALL} SEED={own} PYTEST_ARGS='-k {name}'"
        batches.append(Batch(runtime, list(itertools.islice(kinds, number, None, worlds)), own, again))
    if "/" in seed:
        batches = [batch for batch in batches if batch.seed == seed]
    places = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def one(batch: Batch) -> None:
        async with places:
            await live(batch)

    for batch, error in zip(
        batches, await asyncio.gather(*(one(batch) for batch in batches), return_exceptions=True), strict=True
    ):
        if isinstance(error, Exception):
            said = "".join(traceback.format_exception(error))
            batch.reports.append(
                f"worklets {runtime}, seed {batch.seed}, came to no end:\nagain: {batch.again}\n\n{said}"
            )
        elif error is not None:
            raise error
    return [report for batch in batches for report in batch.reports]
