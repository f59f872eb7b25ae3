"""What the key-value store's schema in PostgreSQL looks like to its users: tables, their columns, the functions.

Two sources say the same: the SQL files beside this one, and a database to which they were applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from config.errors import FlowError
from config.slices.kv import check_postgres
from migrations.kvupgrade import files

#: Whose rights count: those of a worklet's and of a person's token.
_ROLES: Final = ("worklet", "authenticated")
_SAME_TYPES: Final = {
    "timestamp with time zone": "timestamptz",
    "double precision": "float8",
    "int": "integer",
    "int8": "bigint",
    "bool": "boolean",
}
_TYPE_ENDS: Final = r"\b(?:not null|null|default|primary key|references|check|collate|constraint|unique|generated)\b"


class SchemaUnreadable(FlowError):
    """The store's schema could not be read."""


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is PostgreSQL's; `optional`: an insert may leave it out. The rights are those of any token."""

    name: str
    type: str
    nullable: bool
    optional: bool
    insertable: bool = False
    updatable: bool = False
    references: tuple[str, str] | None = None  # table and column


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    type: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Function:
    arguments: tuple[Argument, ...]
    returns: str


@dataclass(slots=True)
class Schema:
    """Tables and functions of `public` that belong to the store, by name, in alphabetical order."""

    tables: dict[str, list[Column]] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)


def from_files() -> Schema:
    """By the migrations."""
    found = Schema()
    rights: dict[tuple[str, str], set[str]] = {}  # (right, table) → columns
    for _, _, path in files():
        for statement in _statements(path.read_text(encoding="utf-8")):
            _apply(statement, found, rights)
    for table, columns in found.tables.items():
        found.tables[table] = [_with_rights(table, column, rights) for column in columns]
    return Schema(dict(sorted(found.tables.items())), dict(sorted(found.functions.items())))


async def from_database(dsn: str) -> Schema:
    """As a database has it. Raises SchemaUnreadable."""
    import asyncpg

    try:
        check_postgres(dsn)
    except ValueError as e:
        raise SchemaUnreadable(f"The address after --dsn is wrong: {e}.") from e
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            tables = list(from_files().tables)
            columns = await connection.fetch(_COLUMNS, tables, list(_ROLES))
            functions = await connection.fetch(_FUNCTIONS)
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, TimeoutError) as e:
        raise SchemaUnreadable(
            f"The database cannot be read: {e or 'no answer in time'}.", suggestion="Look at the address after --dsn."
        ) from e
    if missing := set(tables) - {row["table"] for row in columns}:
        raise SchemaUnreadable(
            f"The database has no table {min(missing)}.", suggestion="Run `flow db upgrade --kv` on it first."
        )
    return Schema(_tables(columns), _functions(functions))


# ---- the files ----


def _statements(sql: str) -> Iterable[str]:
    """Without comments and the functions' bodies; blanks as one."""
    sql = re.sub(r"\$(\w*)\$.*?\$\1\$", "", sql, flags=re.DOTALL)
    sql = re.sub(r"--[^\n]*", "", sql)
    return (" ".join(statement.split()) for statement in sql.split(";"))


def _apply(statement: str, found: Schema, rights: dict[tuple[str, str], set[str]]) -> None:
    if m := re.match(r"create table (?:if not exists )?public\.(\w+) \((.*)\)", statement):
        parts = _split(m[2])
        found.tables[m[1]] = [
            _column(part) for part in parts if not re.match(r"(constraint|unique|primary|check)\b", part)
        ]
    elif m := re.match(r"alter table public\.(\w+) add column (?:if not exists )?(.*)", statement):
        found.tables[m[1]].append(_column(m[2]))
    elif m := re.match(r"alter table public\.(\w+) drop column (?:if exists )?(\w+)", statement):
        found.tables[m[1]] = [column for column in found.tables[m[1]] if column.name != m[2]]
    elif m := re.match(r"create (?:or replace )?function public\.(\w+) ?\((.*?)\) returns (\w+(?:\[\])?)", statement):
        found.functions[m[1]] = Function(tuple(map(_argument, _split(m[2]))), _type(m[3]))
    elif m := re.match(r"drop function (?:if exists )?public\.(\w+)", statement):
        found.functions.pop(m[1], None)
    elif m := re.match(r"grant (.*) on (?:table )?((?:public|private)\.\w+.*) to (.*)", statement):
        _grant(m[1], m[2], m[3], rights)


def _grant(what: str, where: str, to: str, rights: dict[tuple[str, str], set[str]]) -> None:
    if not set(re.split(r", ?", to)) & set(_ROLES):
        return
    for right, columns in re.findall(r"\b(insert|update)\b(?: \(([^)]*)\))?", what):
        for table in re.findall(r"public\.(\w+)", where):
            rights.setdefault((right, table), set()).update(columns.split(", ") if columns else "*")


def _split(text: str) -> list[str]:
    """At commas outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _column(text: str) -> Column:
    name, rest = text.split(" ", 1)
    kind = re.split(_TYPE_ENDS, rest, maxsplit=1)[0]
    to = re.search(r"references public\.(\w+) ?\((\w+)\)", rest)
    required = "not null" in rest or "primary key" in rest
    optional = "default" in rest or "generated" in rest or not required
    return Column(name, _type(kind), not required, optional, references=(to[1], to[2]) if to else None)


def _argument(text: str) -> Argument:
    declared, _, default = text.partition(" default ")
    name, kind = declared.split(" ", 1)
    return Argument(name, _type(kind), bool(default))


def _with_rights(table: str, column: Column, rights: dict[tuple[str, str], set[str]]) -> Column:
    insertable, updatable = (
        bool({"*", column.name} & rights.get((right, table), set())) for right in ("insert", "update")
    )
    return Column(column.name, column.type, column.nullable, column.optional, insertable, updatable, column.references)


def _type(text: str) -> str:
    return _SAME_TYPES.get(text.strip(), text.strip())


# ---- the database ----

_COLUMNS: Final = """
select c.relname as table, a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
       not a.attnotnull as nullable, (a.atthasdef or a.attidentity <> '' or not a.attnotnull) as optional,
       exists (select from unnest($2::text[]) r where has_column_privilege(r, c.oid, a.attnum, 'insert')) as insertable,
       exists (select from unnest($2::text[]) r where has_column_privilege(r, c.oid, a.attnum, 'update')) as updatable,
       (select array[f.relname::text, fa.attname::text] from pg_constraint k
          join pg_class f on f.oid = k.confrelid
          join pg_attribute fa on fa.attrelid = f.oid and fa.attnum = k.confkey[1]
         where k.conrelid = c.oid and k.contype = 'f' and k.conkey = array[a.attnum] limit 1) as target
  from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'public'::regnamespace and c.relname = any ($1) and a.attnum > 0 and not a.attisdropped
 order by c.relname, a.attnum
"""
_FUNCTIONS: Final = r"""
select p.proname as name, coalesce(p.proargnames, '{}') as names, p.pronargdefaults as defaults,
       array(select format_type(t, null) from unnest(p.proargtypes) with ordinality u (t, n) order by n) as types,
       format_type(p.prorettype, null) as returns
  from pg_proc p
 where p.pronamespace = 'public'::regnamespace and p.proname like 'kv\_%'
 order by p.proname
"""


def _tables(rows: Iterable[Any]) -> dict[str, list[Column]]:
    found: dict[str, list[Column]] = {}
    for row in rows:
        column = Column(
            row["name"],
            _type(row["type"]),
            row["nullable"],
            row["optional"],
            row["insertable"],
            row["updatable"],
            tuple(row["target"]) if row["target"] else None,
        )
        found.setdefault(row["table"], []).append(column)
    return found


def _functions(rows: Iterable[Any]) -> dict[str, Function]:
    found: dict[str, Function] = {}
    for row in rows:
        types, first = row["types"], len(row["types"]) - row["defaults"]
        arguments = (
            Argument(name, _type(kind), number >= first)
            for number, (name, kind) in enumerate(zip(row["names"], types, strict=False))
        )
        found[row["name"]] = Function(tuple(arguments), _type(row["returns"]))
    return found
