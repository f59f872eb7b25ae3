"""How often things die: batches of runs in one world each, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

SMALL = 10  # runs without --chaos-runs; every other kind gets a fifth of it
BATCH = 10  # runs in one world


@dataclass
class Tally:
    """What came of the runs of one kind."""

    runs: int = 0
    hits: int = 0
    violations: list[str] = field(default_factory=list)


tallies: dict[str, Tally] = {}


@dataclass(frozen=True)
class Batch:
    """Runs in one world. The seed decides everything that is not the machine's own timing."""

    kind: str
    runtime: str
    runs: int
    seed: str

    @property
    def tally(self) -> Tally:
        return tallies.setdefault(f"{self.kind}, {self.runtime}", Tally())

    def fail(self, number: int, violations: list[str], log: list[str]) -> None:
        """Ends the test: what was broken in which run, and how to have it again."""
        self.tally.violations += violations
        said = "\n".join(violations)
        pytest.fail(
            f"run {number} of {self.runs}, kind {self.kind}, worklets {self.runtime}, seed {self.seed}:\n{said}\n\n"
            f"again: pytest tests/chaos --chaos-runs=… --chaos-seed={self.seed.partition('/')[0]}"
            f" -k '{self.kind}-{self.runtime}'\n\nlog:\n{''.join(log[-120:])}",
            pytrace=False,
        )


def batches(config: pytest.Config, kind: str, runtime: str, share: float) -> Iterator[Batch]:
    """`share` of all runs, in worlds of a few runs each."""
    left = max(1, round((config.getoption("--chaos-runs") or SMALL) * share))
    number = 0
    while left > 0:
        runs = min(BATCH, left)
        yield Batch(kind, runtime, runs, f"{config.getoption('--chaos-seed')}/{kind}/{runtime}/{number}")
        left, number = left - runs, number + 1


def parametrize(metafunc: pytest.Metafunc, found: list[Batch]) -> None:
    """One test a batch: time enough for it, and an engine where it needs one."""
    params = []
    for batch in found:
        marks = [pytest.mark.timeout(120 + 60 * batch.runs)]
        marks += [pytest.mark.docker] if batch.runtime == "docker" else []
        number = batch.seed.rpartition("/")[2]
        params.append(pytest.param(batch, marks=marks, id=f"{batch.kind}-{batch.runtime}-{number}"))
    metafunc.parametrize("batch", params)
