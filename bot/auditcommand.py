"""`flow audit`: which tools Claude used, and what people and rules decided; beside or without a running Flow."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bot.sessionarg import naming
from config.units import parse_duration
from worklets.toolrisk import RISKS

if TYPE_CHECKING:
    from config.settings import Settings
    from sessions.tooluse import ToolUse

_COLUMNS = ("at", "session", "who", "tool", "risk", "decision", "by", "input")
_DECISIONS = ("at", "session", "tool", "decision", "scope", "by", "rule", "input")
_INPUT = 100  # characters of it in the table; --json has it whole


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", type=naming(), help="session id, its first letters, or its thread's link")
    parser.add_argument("--since", type=_since, help="only what is younger, e.g. 2h or 7d, or a date like 2026-11-21")
    parser.add_argument("--risk", choices=RISKS, default=RISKS[0], help="this level and those above it")
    parser.add_argument("--limit", type=_count, default=1000, help="so many rows, the newest (default 1000)")
    parser.add_argument(
        "--decisions", action="store_true", help="what people were asked and decided, and pushes that rules let through"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for other programs")


async def show_audit(settings: Settings, args: argparse.Namespace) -> int:
    """0, also when there is nothing to show."""
    if args.decisions:
        return await _show_decisions(settings, args)
    from bot.finding import find_session, looking
    from sessions.tooluse import ToolUses

    async with looking(settings) as store:
        session = await find_session(store, args.session) if args.session else None
        found = await ToolUses(store.db).list(
            session_id=session.id if session else None,
            since=args.since,
            risks=RISKS[RISKS.index(args.risk) :],
            limit=args.limit,
        )
    if args.json:
        for use in found:
            print(json.dumps({**asdict(use), "at": use.at.isoformat()}, ensure_ascii=False))
    elif not found:
        print("no tools were used")
    else:
        _table(found)
    return 0


async def _show_decisions(settings: Settings, args: argparse.Namespace) -> int:
    from bot.finding import find_session, looking
    from sessions.decisions import decisions

    async with looking(settings) as store:
        session = await find_session(store, args.session) if args.session else None
        found = await decisions(
            store.db, session_id=session.id if session else None, since=args.since, limit=args.limit
        )
    if args.json:
        for one in found:
            print(json.dumps({**asdict(one), "at": one.at.isoformat()}, ensure_ascii=False))
    elif not found:
        print("nothing was decided")
    else:
        rows = [
            (one.session_id[:8], one.tool, one.behavior, one.scope, one.by, ", ".join(one.rules), one.input[:_INPUT])
            for one in found
        ]
        _print(_DECISIONS, [one.at for one in found], rows)
    return 0


def _table(found: Sequence[ToolUse]) -> None:
    rows = [
        (use.session_id[:8], use.user_id, use.tool, use.risk, use.decision, use.by, use.digest[:12]) for use in found
    ]
    _print(_COLUMNS, [use.at for use in found], rows)


def _print(columns: Sequence[str], moments: Sequence[datetime], rows: Sequence[Sequence[str | None]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True)
    for at, cells in zip(moments, rows, strict=True):
        # A tool's name is its MCP server's: it may hold anything that a terminal obeys.
        table.add_row(f"{at:%Y-%m-%d %H:%M:%S}", *(_printable(cell or "-") for cell in cells))
    # Piped to a file or another program, lines are not cut to a terminal's width.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 240).print(table)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "·" for character in text)


def _since(value: str) -> datetime:
    """Raises ArgumentTypeError."""
    try:
        day = datetime.fromisoformat(value)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=parse_duration(value))
        except (ValueError, OverflowError):
            message = f'"{value}" is no time; write it like 2h, 7d or 2026-11-21'
            raise argparse.ArgumentTypeError(message) from None
    return day if day.tzinfo else day.replace(tzinfo=UTC)


def _count(value: str) -> int:
    """Raises ArgumentTypeError."""
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= 1_000_000:
        raise argparse.ArgumentTypeError(f'"{value}" is no number of rows; write it like 100')
    return int(value)
