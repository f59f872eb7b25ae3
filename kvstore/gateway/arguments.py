"""The kinds of argument that functions take: what is let through, and in which form it goes on to a backend."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from kvstore.gateway import jsontext
from kvstore.gateway.errors import invalid

MAX_NAMESPACE_BYTES: Final = 256
MAX_KEY_BYTES: Final = 512
MAX_TTL_SECONDS: Final = 315_360_000.0
MAX_ITEMS: Final = 1000
MAX_WAIT_SECONDS: Final = 25.0
_MAX_BIGINT: Final = 2**63 - 1
_WATCH_CURSOR: Final = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?")

Kind = Callable[[str, Any], Any]
"""Takes the argument's name and what was sent; returns what a backend gets. Raises Refusal."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a transaction. `value` is compact JSON text, `delta` decimal text; None where the step has none."""

    op: str
    namespace: str
    key: str
    value: str | None = None
    ttl: float | None = None
    delta: str = "1"
    version: int | None = None


def _text(name: str, value: Any, minimum: int, maximum: int) -> str:
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string.")
    if "\0" in value:
        raise invalid(f"{name} may not hold the character NUL.")
    if not minimum <= jsontext.utf8_length(value) <= maximum:
        raise invalid(f"{name} must have {minimum} to {maximum} bytes of UTF-8.")
    return value


def namespace(name: str, value: Any) -> str:
    return _text(name, value, 1, MAX_NAMESPACE_BYTES)


def nullable_namespace(name: str, value: Any) -> str | None:
    return None if value is None else namespace(name, value)


def key(name: str, value: Any) -> str:
    return _text(name, value, 1, MAX_KEY_BYTES)


def keys(name: str, value: Any) -> list[str]:
    """At most 1000, each once, in the order in which they came."""
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise invalid(f"{name} must be a list of at most {MAX_ITEMS} keys.")
    return list(dict.fromkeys(key(f"Each of {name}", item) for item in value))


def prefix(name: str, value: Any) -> str:
    return _text(name, value, 0, MAX_KEY_BYTES)


def key_cursor(name: str, value: Any) -> str | None:
    """The last key of the page before; an empty one is the beginning."""
    return _text(name, value, 0, MAX_KEY_BYTES) or None


def watch_cursor(name: str, value: Any) -> str:
    """A version, or a version and the one at which a reading of everything began: `123` or `123-456`."""
    if not isinstance(value, str) or not _WATCH_CURSOR.fullmatch(value):
        raise invalid(f"{name} must be a cursor of an earlier answer, or 0.")
    return value


def json_value(name: str, value: Any) -> str:
    return jsontext.canonical(_json_text(name, value))


def ttl(name: str, value: Any) -> float:
    seconds = _number(name, value)
    if not 0 < seconds <= MAX_TTL_SECONDS:
        raise invalid(f"{name} must be more than 0 and at most {MAX_TTL_SECONDS:.0f} seconds.")
    return seconds


def version(name: str, value: Any) -> int:
    return integer(name, value, 0, _MAX_BIGINT)


def limit(name: str, value: Any) -> int:
    return integer(name, value, 1, MAX_ITEMS)


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false.")
    return value


def delta(name: str, value: Any) -> str:
    """Decimal text without an exponent: exact in every backend and every driver."""
    if isinstance(value, (bool, list, dict)) or value is None:
        raise invalid(f"{name} must be a number.")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError):
        raise invalid(f"{name} must be a number.") from None
    if not number.is_finite() or abs(number.adjusted()) > 400 or math.isinf(float(number)):
        raise invalid(f"{name} is outside the range of a double.")
    return f"{number:f}"


def wait(name: str, value: Any) -> float:
    seconds = _number(name, value)
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise invalid(f"{name} must be 0 to {MAX_WAIT_SECONDS:.0f} seconds.")
    return seconds


def worklet_id(name: str, value: Any) -> str:
    try:
        return str(uuid.UUID(value if isinstance(value, str) else ""))
    except ValueError:
        raise invalid(f"{name} must be a UUID.") from None


def entries(name: str, value: Any) -> list[tuple[str, str]]:
    """Keys, and their values as compact JSON text."""
    found = jsontext.parse(_json_text(name, value))
    if not isinstance(found, dict) or len(found) > MAX_ITEMS:
        raise invalid(f"{name} must hold a JSON object of at most {MAX_ITEMS} keys.")
    return [(key(f"Each key of {name}", k), jsontext.compact(v)) for k, v in found.items()]


def entries_text(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{v}" for k, v in pairs) + "}"


def operations(name: str, value: Any) -> list[Operation]:
    found = jsontext.parse(_json_text(name, value))
    if not isinstance(found, list) or len(found) > MAX_ITEMS:
        raise invalid(f"{name} must hold a JSON array of at most {MAX_ITEMS} operations.")
    return [_operation(f"Operation {i}", item) for i, item in enumerate(found)]


def operations_text(steps: list[Operation]) -> str:
    return "[" + ",".join(map(_operation_text, steps)) + "]"


#: What each operation of a transaction takes beside op, key and namespace: (must have, may have).
_OPERATIONS: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "check": (frozenset({"version"}), frozenset()),
    "set": (frozenset({"value"}), frozenset({"ttl"})),
    "delete": (frozenset(), frozenset()),
    "increment": (frozenset(), frozenset({"delta", "ttl"})),
    "append": (frozenset({"value"}), frozenset({"ttl"})),
    "get": (frozenset(), frozenset()),
}


def _operation(which: str, item: Any) -> Operation:
    op = item.get("op") if isinstance(item, dict) else None
    if not isinstance(op, str) or op not in _OPERATIONS:
        raise invalid(f"{which}: op must be one of {', '.join(_OPERATIONS)}.")
    must, may = _OPERATIONS[op]
    given = frozenset(item) - {"op", "key", "namespace"}
    if "key" not in item or not must <= given <= must | may:
        takes = ", ".join(["key", *sorted(must), *(f"{m}?" for m in sorted(may)), "namespace?"])
        raise invalid(f"{which}: {op} takes {takes}.")
    optional = {k: v for k, v in item.items() if v is not None}
    return Operation(
        op,
        namespace(f"{which}: namespace", optional.get("namespace", "default")),
        key(f"{which}: key", item["key"]),
        jsontext.compact(item["value"]) if "value" in item else None,
        ttl(f"{which}: ttl", optional["ttl"]) if "ttl" in optional else None,
        delta(f"{which}: delta", optional.get("delta", 1)),
        version(f"{which}: version", optional["version"]) if "version" in optional else None,
    )


def _operation_text(step: Operation) -> str:
    members = [f'"op":"{step.op}"']
    members += [
        f'"{n}":{json.dumps(v, ensure_ascii=False)}' for n, v in (("namespace", step.namespace), ("key", step.key))
    ]
    if step.value is not None:
        members.append(f'"value":{step.value}')
    if step.ttl is not None:
        members.append(f'"ttl":{step.ttl!r}')
    if step.op == "increment":
        members.append(f'"delta":{step.delta}')
    if step.op == "check":
        members.append(f'"version":{json.dumps(step.version)}')
    return "{" + ",".join(members) + "}"


def _json_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string that holds JSON.")
    return value


def integer(name: str, value: Any, minimum: int, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise invalid(f"{name} must be a whole number from {minimum} to {maximum}.")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(f"{name} must be a number.")
    try:
        return float(value)
    except OverflowError:
        raise invalid(f"{name} is outside the range of a double.") from None
