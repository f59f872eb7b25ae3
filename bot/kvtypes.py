"""Typed models of the key-value store's schema, as Python and as TypeScript source.

Tables and functions come from `migrations/kvschema.py`. What the functions answer is JSON, of which PostgreSQL knows no
type: RECORDS and ANSWERS say it, and tests hold the functions of every backend to them.

A kind is written like a TypeScript type: text, integer, number, boolean, json, true, false, null or a record's name,
with [] behind it for a list, and | between alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from migrations.kvschema import Column, Function, Schema

_ENTRY: Final = {"version": "integer", "created_at": "text", "updated_at": "text", "expires_at": "text | null"}
_CHANGE: Final = {"namespace": "text", "key": "text", "version": "integer", "updated_at": "text"}

#: Members of each record; a question mark behind a name: it may be missing. Times are ISO 8601 with offset.
RECORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "Entry": {"key": "text", "value": "json", **_ENTRY},
    "ListedEntry": {"key": "text", "value?": "json", **_ENTRY},
    "Page": {"entries": "ListedEntry[]", "cursor": "text | null"},
    "Stored": {"version": "integer | null"},
    "Incremented": {"value": "number", "version": "integer"},
    "Appended": {"length": "integer", "version": "integer"},
    "Committed": {"committed": "true", "results": "json[]"},
    "Conflict": {"committed": "false", "failed": "integer"},
    "Written": {**_CHANGE, "deleted": "false", "value": "json"},
    "Deleted": {**_CHANGE, "deleted": "true"},
    "Changes": {"changes": "(Written | Deleted)[]", "cursor": "text", "reset": "boolean"},
    "Stats": {
        "keys": "integer",
        "bytes": "integer",
        "namespaces": "integer",
        "max_keys": "integer",
        "max_bytes": "integer",
        "changed_at": "text | null",
    },
    "Worklet": {"id": "text", "owner_id": "text", "name": "text"},
}
ANSWERS: Final[Mapping[str, str]] = {
    "kv_get": "Entry | null",
    "kv_has": "boolean",
    "kv_mget": "Entry[]",
    "kv_set": "Stored",
    "kv_mset": "integer",
    "kv_delete": "integer",
    "kv_list": "Page",
    "kv_list_namespaces": "text[]",
    "kv_clear": "integer",
    "kv_increment": "Incremented",
    "kv_append": "Appended",
    "kv_transaction": "Committed | Conflict",
    "kv_watch": "Changes",
    "kv_stats": "Stats",
    "kv_admin_worklets": "Worklet[]",
}
_SQL: Final = {
    **dict.fromkeys(("uuid", "text", "timestamptz"), "text"),
    **dict.fromkeys(("smallint", "integer", "bigint"), "integer"),
    **dict.fromkeys(("real", "float8", "numeric"), "number"),
    **dict.fromkeys(("json", "jsonb"), "json"),
    "boolean": "boolean",
    "void": "null",
}
_PYTHON: Final = {
    "text": "str",
    "integer": "int",
    "number": "int | float",
    "boolean": "bool",
    "json": "Json",
    "true": "Literal[True]",
    "false": "Literal[False]",
    "null": "None",
}
_TYPESCRIPT: Final = {"text": "string", "integer": "number", "json": "Json"}  # the others are called the same
_HEAD: Final = "The key-value store of Flow's worklets, as `flow types` writes it. Do not edit: write it anew."


def python(schema: Schema) -> str:
    """A module of TypedDicts, which needs the standard library only."""
    return "\n".join(_python(schema)) + "\n"


def typescript(schema: Schema) -> str:
    """A module with `Database`, which `createClient<Database>` of supabase-js takes."""
    return "\n".join(_typescript(schema)) + "\n"


def _kind(sql: str) -> str:
    """Of an SQL type; what is not known may be anything."""
    return f"{_SQL.get(sql[:-2], 'json')}[]" if sql.endswith("[]") else _SQL.get(sql, "json")


def _answer(name: str, function: Function) -> str:
    return ANSWERS.get(name) or _kind(function.returns)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _column_kind(column: Column) -> str:
    return _kind(column.type) + (" | null" if column.nullable else "")


# ---- Python ----


def _python(schema: Schema) -> Iterator[str]:
    yield f'"""{_HEAD}"""'
    yield "\nfrom typing import Literal, NotRequired, TypeAlias, TypedDict\n"
    yield 'Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"'
    for table, columns in schema.tables.items():
        name = _camel(table)
        yield from _class(f"{name}Row", {c.name: _column_kind(c) for c in columns})
        yield from _class(
            f"{name}Insert", {c.name + "?" * c.optional: _column_kind(c) for c in columns if c.insertable}
        )
        yield from _class(f"{name}Update", {f"{c.name}?": _column_kind(c) for c in columns if c.updatable})
    for name, members in RECORDS.items():
        yield from _class(name, members)
    for name, function in schema.functions.items():
        yield from _class(f"{_camel(name)}Arguments", _arguments(function))
        yield f"\n\n{_camel(name)}Answer: TypeAlias = {_in_python(_answer(name, function))}"


def _class(name: str, members: Mapping[str, str]) -> Iterator[str]:
    yield f"\n\nclass {name}(TypedDict):"
    if not members:
        yield "    pass"
    for member, kind in members.items():
        text = _in_python(kind)
        yield f"    {member.rstrip('?')}: {f'NotRequired[{text}]' if member.endswith('?') else text}"


def _in_python(kind: str) -> str:
    if kind.endswith(")[]"):
        return f"list[{_in_python(kind[1:-3])}]"
    if " | " in kind:
        return " | ".join(map(_in_python, kind.split(" | ")))
    return f"list[{_in_python(kind[:-2])}]" if kind.endswith("[]") else _PYTHON.get(kind, kind)


# ---- TypeScript ----


def _typescript(schema: Schema) -> Iterator[str]:
    yield f"/** {_HEAD} */\n"
    yield "export type Json = string | number | boolean | null | Json[] | { [name: string]: Json | undefined };"
    for name, members in RECORDS.items():
        yield f"\nexport type {name} = {_object(members, '')};"
    yield "\nexport type Database = {\n  public: {\n    Tables: {"
    for table, columns in schema.tables.items():
        yield f"      {table}: {{"
        yield f"        Row: {_object({c.name: _column_kind(c) for c in columns}, ' ' * 8)};"
        insert = {c.name + "?" * c.optional: _column_kind(c) for c in columns if c.insertable}
        yield f"        Insert: {_object(insert, ' ' * 8)};"
        update = {f"{c.name}?": _column_kind(c) for c in columns if c.updatable}
        yield f"        Update: {_object(update, ' ' * 8)};"
        yield from _relationships(table, columns)
        yield "      };"
    yield "    };\n    Views: Record<never, never>;\n    Functions: {"
    for name, function in schema.functions.items():
        arguments = _object(_arguments(function), " " * 8) if function.arguments else "Record<PropertyKey, never>"
        yield f"      {name}: {{"
        yield f"        Args: {arguments};"
        yield f"        Returns: {_in_typescript(_answer(name, function)).replace('null', _nothing(name, function))};"
        yield "      };"
    yield "    };\n    Enums: Record<never, never>;\n    CompositeTypes: Record<never, never>;\n  };\n};"


def _nothing(name: str, function: Function) -> str:
    return "undefined" if function.returns == "void" and name not in ANSWERS else "null"


def _relationships(table: str, columns: list[Column]) -> Iterator[str]:
    yield "        Relationships: ["
    for column in columns:
        if column.references is not None:
            to, target = column.references
            yield f'          {{ foreignKeyName: "{table}_{column.name}_fkey"; columns: ["{column.name}"];'
            yield f'            isOneToOne: false; referencedRelation: "{to}"; referencedColumns: ["{target}"] }},'
    yield "        ];"


def _object(members: Mapping[str, str], indent: str) -> str:
    lines = (f"{indent}  {name}: {_in_typescript(kind)};" for name, kind in members.items())
    return "\n".join(("{", *lines, f"{indent}}}"))


def _in_typescript(kind: str) -> str:
    if kind.endswith(")[]"):
        return f"({_in_typescript(kind[1:-3])})[]"
    if " | " in kind:
        return " | ".join(map(_in_typescript, kind.split(" | ")))
    return f"{_in_typescript(kind[:-2])}[]" if kind.endswith("[]") else _TYPESCRIPT.get(kind, kind)


def _arguments(function: Function) -> dict[str, str]:
    """An argument that may be left out may be null too."""
    return {a.name + "?" * a.optional: _kind(a.type) + (" | null" if a.optional else "") for a in function.arguments}
