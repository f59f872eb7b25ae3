"""`flow costs`: what was spent, by person, channel or day; beside or without a running Flow."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bot.core import open_store
from sessions.costs import By, Costs, Spending, day_of, described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.settings import Settings

Rows = list[tuple[str, Spending]]


async def show_costs(settings: Settings, *, by: By, days: int, as_json: bool) -> int:
    """Of the last so many days (UTC), today included."""
    now = datetime.now(UTC)
    first, last = day_of(now - timedelta(days=days - 1)), day_of(now)
    database = await open_store(settings, exclusive=False)
    try:
        costs = Costs(database)
        rows, total = await costs.by(by, first, last), await costs.of_days(first, last)
    finally:
        await asyncio.shield(database.close())
    if as_json:
        print(json.dumps(_object(by, first, last, rows, total), indent=2))
    elif not rows:
        print(f"nothing was spent from {first} to {last}")
    else:
        _table(by, rows, total)
    return 0


def _object(by: By, first: str, last: str, rows: Rows, total: Spending) -> dict[str, Any]:
    listed = [{by: key, **asdict(spent)} for key, spent in rows]
    return {"first": first, "last": last, "by": by, "rows": listed, "total": asdict(total)}


def _table(by: By, rows: Sequence[tuple[str, Spending]], total: Spending) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(by, no_wrap=True)
    for name in ("turns", "input", "output", "cache read", "cache write"):
        table.add_column(name, justify="right")
    table.add_column("cost")
    for key, spent in (*rows, ("all", total)):
        counts = (
            spent.turns,
            spent.input_tokens,
            spent.output_tokens,
            spent.cache_read_tokens,
            spent.cache_write_tokens,
        )
        table.add_row(key, *(f"{count:,}" for count in counts), described(spent))
    # Piped to a file or another program, lines are not cut to a terminal's width.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160).print(table)
