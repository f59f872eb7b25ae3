"""The table of what died and what came of it."""

from __future__ import annotations

import pytest
from chaos_batches import tallies


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not tallies:
        return
    terminalreporter.section(f"chaos, seed {config.getoption('--chaos-seed')}")
    terminalreporter.write_line(f"{'what died':34}{'runs':>6}{'hit':>6}{'violations':>12}")
    for kind, tally in tallies.items():
        terminalreporter.write_line(f"{kind:34}{tally.runs:>6}{tally.hits:>6}{tally.violations:>12}")
