"""The table of what died and what came of it."""

from __future__ import annotations

import pytest
import slack_faults
from chaos_batches import tallies


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A skipped test means that a real part is missing; what a short run does without is not there at all."""
    if metafunc.function.__name__ == "test_each_fault_alone":
        metafunc.parametrize("kind", list(slack_faults.FAULTS))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not slack_faults.answers_wanted(config)[1]:
        alone = [item for item in items if item.name.startswith("test_each_fault_alone[")]
        items[:] = [item for item in items if item not in alone]
        config.hook.pytest_deselected(items=alone)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    _of_slack(terminalreporter)
    if not tallies:
        return
    terminalreporter.section(f"chaos, seed {config.getoption('--chaos-seed')}")
    terminalreporter.write_line(f"{'what died':34}{'runs':>6}{'hit':>6}{'violations':>12}")
    for kind, tally in tallies.items():
        terminalreporter.write_line(f"{kind:34}{tally.runs:>6}{tally.hits:>6}{tally.violations:>12}")


def _of_slack(terminalreporter: pytest.TerminalReporter) -> None:
    if not slack_faults.table:
        return
    terminalreporter.section("chaos in Slack")
    terminalreporter.write_line(f"{'what failed':34}{'strikes':>8}{'answers':>8}{'seconds':>8}{'violations':>12}")
    for kind, row in slack_faults.table.items():
        figures = f"{row.strikes:>8}{row.answers:>8}{row.seconds:>8.0f}{row.violations:>12}"
        terminalreporter.write_line(f"{kind:34}{figures}")
