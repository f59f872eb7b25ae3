"""One statement that reads, in a process of its own: `python -m worklets.mcpquery`, started by `worklets.mcppostgres`.

A statement decides how much the database sends, errors too, and the driver puts a message together before anybody can
look at its length. So that happens here, with little memory and few seconds of a processor, and never in the gateway.
JSON goes in, {"dsn", "sql", "seconds"}, and JSON comes out, {"text", "wrong"}; the address is in no argument and in no
environment.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

ROWS = 200
_CHARACTERS = 10_000  # of one row
_ALL = 100_000  # characters of one answer
_ERROR = 2000  # characters of what the database says is wrong
_MEMORY = 512 << 20  # bytes of address space; an idle one has 60 MiB of it in memory, and threads reserve the most
_CPU = 5  # seconds
CONNECT = 10.0  # seconds


async def answered(dsn: str, sql: str, seconds: float) -> tuple[str, bool]:
    """What the tool says, and whether it is an error. Nothing of the address is in it."""
    import asyncpg

    limits = {"statement_timeout": str(int(seconds * 1000)), "default_transaction_read_only": "on"}
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT, server_settings=limits, statement_cache_size=0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        # Their texts may quote the address with its password; or the role, the database, Flow's own address.
        return (
            f"Flow cannot connect to the database ({type(error).__name__}). "
            "An administrator has to look at the secret mcp/postgres.",
            True,
        )
    try:
        return _shown(await _rows(connection, sql)), False
    except asyncpg.PostgresError as error:
        text = f"{type(error).__name__}: {error}"
        return text if len(text) <= _ERROR else f"{text[:_ERROR]}… (cut)", True
    except (asyncpg.InterfaceError, OSError, ValueError) as error:
        return f"The connection to the database broke ({type(error).__name__}). Try again.", True
    finally:
        connection.terminate()


async def _rows(connection: asyncpg.Connection, sql: str) -> list[str]:
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    sql = sql.strip().removesuffix(";")
    await connection.prepare(sql)
    bounded = f"select left(row_to_json(q)::text, {_CHARACTERS + 1}) from (\n{sql}\n) q limit {ROWS + 1}"  # noqa: S608
    rows = [row[0] for row in await connection.fetch(bounded)]
    await transaction.rollback()  # some functions of older servers write in spite of it: large objects
    return rows


def _shown(rows: list[str]) -> str:
    lines = [f"{row[:_CHARACTERS]}… (cut)" if len(row) > _CHARACTERS else row for row in rows[:ROWS]]
    text = "\n".join(lines) or "No rows."
    if len(text) > _ALL:
        return f"{text[:_ALL]}…\n(cut: ask for fewer columns or rows)"
    return f"{text}\n(more rows follow)" if len(rows) > ROWS else text


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
    asked = json.load(sys.stdin)
    text, wrong = asyncio.run(answered(asked["dsn"], asked["sql"], asked["seconds"]))
    json.dump({"text": text, "wrong": wrong}, sys.stdout)


if __name__ == "__main__":
    _main()
