"""Real parts: which are here, which tests need them, and what to run when one is missing."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tables
from hypothesis import HealthCheck, settings

# The same examples in each run of the suite; new ones, and many, in `make chaos`.
# How long it takes to make them says nothing on a busy machine.
_UNTIMED = [HealthCheck.too_slow]
settings.register_profile("suite", derandomize=True, deadline=None, database=None, suppress_health_check=_UNTIMED)
settings.register_profile("chaos", max_examples=1_000, deadline=None, database=None, suppress_health_check=_UNTIMED)
settings.load_profile("suite")

HOW = "make provision"

# Modules of a minute and more begin first: with one of them at the end, one process would work and the others wait.
LONG = (
    "e2e/test_e2e_life.py", "chaos/test_chaos_kill.py", "chaos/test_chaos_database.py", "contracts/test_runtime.py",
    "integration/test_worklet_abuse.py", "integration/test_cli.py", "integration/test_recovery.py",
    "integration/test_kv_supabase.py", "unit/sessions/test_sessions_stateful.py", "e2e/test_e2e_mcpservers.py",
)  # fmt: skip
_KINDS = ("chaos", "e2e", "integration", "contracts", "unit")  # the rest, from minutes to seconds

_TABLES = Path(__file__).parents[1] / "build/tables.txt"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background of a shell: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def has_docker() -> str | None:
    """None when an engine answers and has the worklet image's base; else what is missing."""
    if not shutil.which("docker"):
        return "no docker command"
    done = subprocess.run(["docker", "version", "-f", "{{.Server.Version}}"], capture_output=True, timeout=60)
    return None if done.returncode == 0 else "no Docker engine answers"


@functools.cache
def has_gvisor() -> str | None:
    command = ["docker", "info", "-f", "{{range $name, $_ := .Runtimes}}{{println $name}}{{end}}"]
    if not shutil.which("docker"):
        return "no docker command"
    done = subprocess.run(command, capture_output=True, timeout=60, text=True)
    return None if "runsc" in done.stdout.split() else "the Docker engine has no runtime runsc (gVisor)"


@functools.cache
def has_postgres() -> str | None:
    return None if any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) else "no PostgreSQL server programs"


@functools.cache
def has_chromium() -> str | None:
    return None if shutil.which("chromium") else "no Chromium"


@functools.cache
def has_node() -> str | None:
    return None if shutil.which("npm") else "no Node.js with npm"


@functools.cache
def has_tmpfs() -> str | None:
    """A file system that can be filled up without harm."""
    with tempfile.TemporaryDirectory() as at:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", at], capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", at], check=True)
    return None if done.returncode == 0 else "no right to mount a tmpfs (root has it)"


PARTS: dict[str, Callable[[], str | None]] = {
    "docker": has_docker,
    "gvisor": has_gvisor,
    "postgres": has_postgres,
    "chromium": has_chromium,
    "node": has_node,
    "tmpfs": has_tmpfs,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require", default="", help="comma-separated real parts (or all) whose absence is a failure")
    parser.addoption("--chaos-runs", type=int, default=0, help="runs in which the bot is killed (tests/chaos); 0: few")
    parser.addoption(
        "--chaos-answers", type=int, default=60, help="answers shown through a failing Slack (tests/chaos)"
    )
    parser.addoption("--chaos-seed", default="1", help="what dies when, and what people say meanwhile")


class FailuresAtOnce:
    """Names each failure when it happens: the suite takes a quarter of an hour, and says the rest at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and (reporter := self._config.pluginmanager.get_plugin("terminalreporter")):
            where = report.longreprtext.rstrip().rpartition("\n")[2]
            reporter.write_line(f"\nfailed: {report.nodeid} ({where})")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # one of several processes tells the first one
        config.pluginmanager.register(FailuresAtOnce(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(here).as_posix()
        return LONG.index(name) if name in LONG else len(LONG) + _KINDS.index(name.partition("/")[0])

    items.sort(key=rank)  # stable: a module's tests stay together, in their order


@pytest.fixture(autouse=True)
def ample_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the database, in this process: what Slack waits for says nothing about a machine that runs the suite.

    Tests of these limits are marked `deadlines`.
    """
    if request.node.get_closest_marker("deadlines") is None:
        for name in ("_FAST", "_SLOW"):
            monkeypatch.setattr(f"sessions.db.{name}", 60.0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = item.config.getoption("--require").split(",")
    for name, lacks in PARTS.items():
        if item.get_closest_marker(name) and (reason := lacks()):
            if name in wanted or "all" in wanted:
                pytest.fail(f"{reason}; provide it with `{HOW}`", pytrace=False)
            pytest.skip(f"{name} is missing: {reason}; provide it with `{HOW}`")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:  # one of several processes
        output["tables"] = tables.mine()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    tables.received.extend((title, list(lines)) for title, lines in getattr(node, "workeroutput", {}).get("tables", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    shown = [*tables.received, *tables.mine()]
    if shown and any(terminalreporter.stats.get(kind) for kind in ("failed", "error")):
        _TABLES.parent.mkdir(exist_ok=True)
        _TABLES.write_text("\n\n".join("\n".join([title, *lines]) for title, lines in shown))
        terminalreporter.write_line(f"tables: {_TABLES}")  # the failures are what to read here
        shown = []
    for title, lines in shown:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    missing = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in missing.items():
        terminalreporter.write_line(f"skipped {count} tests: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see neither the developer's tokens nor a proxy of the machine."""
    for name in list(os.environ):
        if name.startswith(("FLOW_", "SLACK_", "ANTHROPIC_", "CLAUDE_CODE_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
