"""The table of what died and what came of it."""

from __future__ import annotations

import pytest
import slack_faults
import tables
from chaos_batches import small, tallies
from tables import Table


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A skipped test means that a real part is missing; what a short run does without is not there at all."""
    if metafunc.function.__name__ == "test_each_fault_alone":
        metafunc.parametrize("kind", list(slack_faults.FAULTS))


#: Left to `make chaos`: others, which a short run has, kill the same in another place.
_LARGE = (
    "test_the_bot_dies_with_containers",
    "test_what_runs_inside_dies_with_containers",
    "test_the_disk_that_holds_everything_fills_up",
    "test_what_worklets_are_trusted_with_survives_with_local_worklets",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = () if slack_faults.answers_wanted(config)[1] else ("test_each_fault_alone[",)
    without += _LARGE if small(config) else ()
    left = [item for item in items if item.name.startswith(without)] if without else []
    if left:
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


def _of_deaths() -> list[Table]:
    lines = [f"{'what died':34}{'runs':>6}{'hit':>6}{'violations':>12}"]
    lines += [f"{kind:34}{one.runs:>6}{one.hits:>6}{one.violations:>12}" for kind, one in tallies.items()]
    return [("chaos", lines)] if tallies else []


def _of_slack() -> list[Table]:
    lines = [f"{'what failed':34}{'strikes':>8}{'answers':>8}{'seconds':>8}{'violations':>12}"]
    lines += [
        f"{kind:34}{row.strikes:>8}{row.answers:>8}{row.seconds:>8.0f}{row.violations:>12}"
        for kind, row in slack_faults.table.items()
    ]
    return [("chaos in Slack", lines)] if slack_faults.table else []


tables.providers += [_of_deaths, _of_slack]
