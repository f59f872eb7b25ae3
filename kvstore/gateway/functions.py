"""The functions of the store: which arguments each takes, and what is let through to a backend.

Every function also takes `p_worklet_id`; None is the token's own worklet. Values, entries and operations travel as text
that holds JSON, which no driver can misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kvstore.gateway import arguments as kinds
from kvstore.gateway.arguments import Kind, Operation
from kvstore.gateway.errors import invalid, unknown_function

REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Argument:
    """`default` is REQUIRED where the argument must be sent. A null stands for the default."""

    name: str
    kind: Kind
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Function:
    """`mutates`: whether it may change the store. The order of `arguments` is that of the SQL function."""

    name: str
    arguments: tuple[Argument, ...]
    mutates: bool = False


class Arguments(dict[str, Any]):
    """Validated arguments, every one of the function's. What was taken apart for validation is kept for a backend."""

    pairs: list[tuple[str, str]]
    """Of `p_entries`: keys, and their values as compact JSON text."""
    steps: list[Operation]
    """Of `p_operations`."""


_NAMESPACE = Argument("p_namespace", kinds.namespace)
_ANY_NAMESPACE = Argument("p_namespace", kinds.nullable_namespace)
_KEY = Argument("p_key", kinds.key)
_KEYS = Argument("p_keys", kinds.keys)
_VALUE = Argument("p_value", kinds.json_value)
_TTL = Argument("p_ttl", kinds.ttl, None)
_IF_VERSION = Argument("p_if_version", kinds.version, None)
_PREFIX = Argument("p_prefix", kinds.prefix, "")
_WORKLET_ID = Argument("p_worklet_id", kinds.worklet_id, None)


def _function(name: str, *arguments: Argument, mutates: bool = False) -> Function:
    return Function(name, (*arguments, _WORKLET_ID), mutates)


FUNCTIONS: Final[Mapping[str, Function]] = {
    f.name: f
    for f in (
        _function("kv_get", _NAMESPACE, _KEY),
        _function("kv_has", _NAMESPACE, _KEY),
        _function("kv_mget", _NAMESPACE, _KEYS),
        _function(
            "kv_set", _NAMESPACE, _KEY, _VALUE, _TTL, _IF_VERSION,
            Argument("p_only_if_absent", kinds.boolean, False), mutates=True,
        ),
        _function("kv_mset", _NAMESPACE, Argument("p_entries", kinds.entries), _TTL, mutates=True),
        _function("kv_delete", _NAMESPACE, _KEYS, _IF_VERSION, mutates=True),
        _function(
            "kv_list", _NAMESPACE, _PREFIX, Argument("p_cursor", kinds.key_cursor, None),
            Argument("p_limit", kinds.limit, 100), Argument("p_values", kinds.boolean, False),
        ),
        _function("kv_list_namespaces"),
        _function("kv_clear", _ANY_NAMESPACE, mutates=True),
        _function("kv_increment", _NAMESPACE, _KEY, Argument("p_delta", kinds.delta, "1"), _TTL, mutates=True),
        _function("kv_append", _NAMESPACE, _KEY, _VALUE, _TTL, mutates=True),
        _function("kv_transaction", Argument("p_operations", kinds.operations), mutates=True),
        _function(
            "kv_watch", Argument("p_namespace", kinds.nullable_namespace, None), _PREFIX,
            Argument("p_cursor", kinds.watch_cursor, None), Argument("p_limit", kinds.limit, 1000),
            Argument("p_wait", kinds.wait, 0.0),
        ),
        _function("kv_stats"),
    )
}  # fmt: skip


def validated(name: str, body: Mapping[str, Any]) -> Arguments:
    """The function's arguments, each checked and in the form that backends take.

    Keys, namespaces, prefixes and cursors are strings; `p_keys` is a list of them; `p_value`, `p_entries` and
    `p_operations` are compact JSON text; `p_ttl` and `p_wait` are floats in seconds, versions and limits integers,
    `p_delta` is decimal text, `p_worklet_id` a UUID in lower case. Raises Refusal.
    """
    function = FUNCTIONS.get(name)
    if function is None:
        raise unknown_function(", ".join(FUNCTIONS))
    found = Arguments()
    for argument in function.arguments:
        value = body.get(argument.name)
        if value is None and argument.default is not REQUIRED:
            found[argument.name] = argument.default
        elif value is None and argument.name not in body:
            raise invalid(f"{name} needs {argument.name}.")
        else:
            found[argument.name] = argument.kind(argument.name, value)
    if not body.keys() <= found.keys():
        raise invalid(f"{name} takes {', '.join(found)}, and nothing else.")
    _finish(name, found)
    return found


def _finish(name: str, found: Arguments) -> None:
    """What concerns several arguments, and those that a backend may want in parts."""
    if name == "kv_set" and found["p_only_if_absent"] and found["p_if_version"] is not None:
        raise invalid("p_if_version and p_only_if_absent exclude each other.")
    if name == "kv_delete" and found["p_if_version"] is not None and len(found["p_keys"]) != 1:
        raise invalid("p_if_version needs exactly one key.")
    if name == "kv_mset":
        found.pairs = found["p_entries"]
        found["p_entries"] = kinds.entries_text(found.pairs)
    elif name == "kv_transaction":
        found.steps = found["p_operations"]
        found["p_operations"] = kinds.operations_text(found.steps)


def pairs(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of `kv_mset`: keys, and their values as compact JSON text."""
    if isinstance(arguments, Arguments):
        return arguments.pairs
    return kinds.entries("p_entries", arguments["p_entries"])


def steps(arguments: Mapping[str, Any]) -> list[Operation]:
    """Of `kv_transaction`: its operations."""
    if isinstance(arguments, Arguments):
        return arguments.steps
    return kinds.operations("p_operations", arguments["p_operations"])
