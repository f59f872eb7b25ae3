"""What `flow kv` prints."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

_CONTROLS = re.compile("[\x7f-\x9f]")  # JSON lets them stand, and terminals obey them


def print_json(value: object) -> None:
    """On one line, which nothing in it breaks and no terminal obeys."""
    print(_json(value))


def print_entries(rows: list[dict[str, Any]], values: bool) -> None:
    """`rows`: entries with their namespace. `values`: with a column for them."""
    if not rows:
        print("no keys")
        return
    columns = ("namespace", "key", "version", "updated", "expires", *(("value",) if values else ()))
    table = [
        (
            row["namespace"],
            row["key"],
            str(row["version"]),
            row["updated_at"][:19],
            (row["expires_at"] or "")[:19],
            *((json.dumps(row["value"], ensure_ascii=False),) if values else ()),
        )
        for row in rows
    ]
    print_table(columns, table)


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Cut to a terminal's width; whole when piped to a file or another program."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis" if name in ("value", "name") else "ignore")
    for row in rows:
        table.add_row(*map(one_line, row))
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 400).print(table)


def print_change(change: dict[str, Any], *, as_json: bool) -> None:
    """One line, seen at once also by a program that reads it."""
    if as_json:
        text = _json(change)
    else:
        what = "deleted" if change["deleted"] else json.dumps(change["value"], ensure_ascii=False)
        text = one_line(f"{change['updated_at'][:19]} {change['namespace']} {change['key']} {what}")
    print(text, flush=True)


def counted(count: int) -> str:
    return f"{count:,} entry" if count == 1 else f"{count:,} entries"


def _json(value: object) -> str:
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def one_line(text: str) -> str:
    """Keys are anybody's: what moves a terminal's cursor is shown escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
