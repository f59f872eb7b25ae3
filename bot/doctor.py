"""`flow doctor`: every prerequisite, its state, and what to do about it. Exit code 1 when one is not met."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from bot import (
    accessdoctor,
    claudedoctor,
    databasedoctor,
    egressdoctor,
    enginedoctor,
    hostdoctor,
    imagedoctor,
    kvdoctor,
    mcpdoctor,
    pooldoctor,
    previewdoctor,
    repodoctor,
    secretsdoctor,
)
from bot.doctorfinding import Finding
from config.errors import FlowError

if TYPE_CHECKING:
    from config.settings import Settings

Check: TypeAlias = "Callable[[Settings], Finding | Awaitable[Finding]]"

CHECKS: dict[str, Check] = {
    "system": hostdoctor.system,
    "Slack": accessdoctor.slack,
    "access": accessdoctor.access,
    "limits": accessdoctor.limits,
    "Claude credential": claudedoctor.credential,
    "engine": enginedoctor.engine,
    "isolation": enginedoctor.isolation,
    "worklet image": imagedoctor.usual,
    "base images": imagedoctor.bases,
    "egress": egressdoctor.egress,
    "previews": previewdoctor.previews,
    "Claude CLI": claudedoctor.local_cli,
    "model gateway": claudedoctor.gateway,
    "database": databasedoctor.database,
    "key-value store": kvdoctor.store,
    "store's key": kvdoctor.key,
    "secrets": secretsdoctor.secrets,
    "MCP servers": mcpdoctor.servers,
    "disk": enginedoctor.disk,
    "git": hostdoctor.git,
    "repositories": repodoctor.repositories,
    "worklets ready": pooldoctor.pool,
    "inotify": lambda _: hostdoctor.watchers(),
    "processes": hostdoctor.processes,
    "networks": enginedoctor.networks,
}
_ON_ENGINE = ("isolation", "worklet image", "base images", "networks")
_SKIPPED = Finding("skip", "not looked at before the engine is in order")
_UNEXPECTED = "Mend what this names; if that is nothing of yours, it is a bug of Flow's: please report it."
_SECONDS = 30.0  # for each


async def doctor(settings: Settings) -> int:
    """Runs all checks and prints them as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found = await find_all(settings)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    marks = {"ok": "[green]✓[/green]", "warn": "[yellow]![/yellow]", "fail": "[red]✗[/red]", "skip": "[dim]-[/dim]"}
    for name, finding in found.items():
        table.add_row(marks[finding.state], name, escape(finding.text), escape(finding.advice))
    # Piped to a file or another program, lines are not cut to a terminal's width.
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    return 1 if any(finding.state == "fail" for finding in found.values()) else 0


async def find_all(settings: Settings) -> dict[str, Finding]:
    """All of CHECKS in their order, looked at at the same time."""
    async with asyncio.TaskGroup() as group:
        engine = group.create_task(_run("engine", settings))
        others = [name for name in CHECKS if name != "engine"]
        tasks = {name: group.create_task(_after(engine, name, settings)) for name in others}
    return {name: (tasks.get(name) or engine).result() for name in CHECKS}


async def find(name: str, settings: Settings) -> Finding:
    """One of CHECKS. Takes no longer than one does."""
    if name not in _ON_ENGINE:
        return await _run(name, settings)
    engine, found = await asyncio.gather(_run("engine", settings), _run(name, settings))
    return _SKIPPED if _is_away(engine) else found


async def _after(engine: Awaitable[Finding], name: str, settings: Settings) -> Finding:
    """What is wrong with the engine stands in its own line only."""
    if name in _ON_ENGINE and _is_away(await engine):
        return _SKIPPED
    return await _run(name, settings)


def _is_away(engine: Finding) -> bool:
    return engine.blocks or engine.state == "fail"


async def _run(name: str, settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(_SECONDS):
            found = CHECKS[name](settings)
            return found if isinstance(found, Finding) else await found
    except FlowError as e:
        return Finding("fail", str(e), e.suggestion)
    except TimeoutError:
        return Finding("fail", f"no answer within {_SECONDS:.0f} seconds", "Check the network between Flow and it.")
    except Exception as e:  # noqa: BLE001 - the lines of the others are wanted all the same
        place = traceback.extract_tb(e.__traceback__)[-1]
        return Finding("fail", f"{type(e).__name__}: {e} ({place.name}, line {place.lineno})", _UNEXPECTED)
