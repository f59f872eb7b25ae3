"""Values, keys and the other arguments: checked before anything is sent, in the gateway's words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from kvstore.errors import invalid, too_large

MAX_VALUE_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 128
MAX_NAMESPACE_BYTES: Final = 256
MAX_KEY_BYTES: Final = 512
MAX_TTL: Final = 315_360_000
MAX_ENTRIES: Final = 1000  # of one request

_MAX_INT: Final = int(sys.float_info.max)
_BIG: Final = 1e16  # from here on repr() writes an exponent
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode


def encode(value: Any) -> str:
    """The value as compact JSON. Also of dataclasses and pydantic models. Raises KVValidationError.

    A float of 1e16 and more is written out with ".0": PostgreSQL gives digits without an exponent back, and a reader
    would take them for an integer that is not equal to the float.
    """
    text = _written(value) if _examine(value, MAX_DEPTH) else _dumps(value)
    if byte_length(text) > MAX_VALUE_BYTES:
        raise too_large(f"A value may have {MAX_VALUE_BYTES} bytes as compact JSON; this one has more.")
    return text


def quoted(text: str) -> str:
    return _dumps(text)


def byte_length(text: str) -> int:
    """In UTF-8. Raises KVValidationError for half a surrogate pair, which UTF-8 cannot hold."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise invalid("A string may not hold half a surrogate pair.") from None


def check_key(key: object) -> str:
    return _check_name(key, "key", MAX_KEY_BYTES)


def check_keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, (str, bytes)):
        raise invalid("Several keys are wanted, as a list; this is one string.")
    return [check_key(key) for key in keys]


def check_namespace(namespace: object) -> str:
    return _check_name(namespace, "namespace", MAX_NAMESPACE_BYTES)


def check_prefix(prefix: object) -> str:
    return "" if prefix == "" else _check_name(prefix, "prefix", MAX_KEY_BYTES)


def check_cursor(cursor: object) -> str:
    if not isinstance(cursor, str):
        raise invalid(f"A cursor must be a string, not {type(cursor).__name__}.")
    return cursor if cursor == "" else _check_text(cursor, "cursor")


def check_ttl(ttl: object) -> float:
    """Seconds of life. Takes a timedelta too."""
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise invalid(f"A ttl must be a number of seconds, not {type(ttl).__name__}.")
    if not 0 < ttl <= MAX_TTL:  # NaN too
        raise invalid(f"A ttl must be over 0 and at most {MAX_TTL} seconds.")
    return ttl


def check_version(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int):
        raise invalid(f"A version must be an integer, not {type(version).__name__}.")
    if not 0 <= version < 2**63:
        raise invalid("A version must be a whole number from 0 to 2**63 - 1.")
    return version


def check_limit(limit: object) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise invalid(f"A limit must be an integer, not {type(limit).__name__}.")
    if not 1 <= limit <= MAX_ENTRIES:
        raise invalid(f"A limit must be between 1 and {MAX_ENTRIES}.")
    return limit


def check_delta(delta: object) -> int | float:
    if isinstance(delta, bool) or not isinstance(delta, (int, float)):
        raise invalid(f"A delta must be a number, not {type(delta).__name__}.")
    _examine(delta, 0)
    return delta


def check_mapping(entries: object) -> dict[str, str]:
    """Keys and values to write: checked keys, values as JSON text."""
    if not hasattr(entries, "keys") or not hasattr(entries, "__getitem__"):
        raise invalid(f"Entries must be a mapping of keys to values, not {type(entries).__name__}.")
    return {check_key(key): encode(entries[key]) for key in entries.keys()}  # noqa: SIM118 - any mapping has keys()


def object_text(entries: Iterable[tuple[str, str]]) -> str:
    """A JSON object of names and values that are JSON text already."""
    return "{" + ",".join(f"{_dumps(name)}:{text}" for name, text in entries) + "}"


def _check_name(text: object, what: str, maximum: int) -> str:
    if not isinstance(text, str):
        raise invalid(f"A {what} must be a string, not {type(text).__name__}.")
    _check_text(text, what)
    if not 1 <= byte_length(text) <= maximum:
        raise invalid(f"A {what} must have between 1 and {maximum} bytes of UTF-8.")
    return text


def _check_text(text: str, what: str) -> str:
    if "\0" in text:
        raise invalid(f"A {what} may not hold the character NUL.")
    byte_length(text)
    return text


def _examine(value: Any, room: int) -> bool:
    """Whether `_written` must write the value. Raises KVValidationError. `room`: how much deeper it may be nested."""
    if isinstance(value, str):
        if "\0" in value:
            raise invalid("A string may not hold the character NUL.")
        return False
    if value is None or isinstance(value, bool):
        return False
    if isinstance(value, int):
        if not -_MAX_INT <= value <= _MAX_INT:
            raise invalid("A number is outside the range of a double.")
        return False
    if isinstance(value, float):
        if value - value != 0:  # only NaN and the infinities
            raise invalid("NaN and Infinity are no JSON.")
        return not -_BIG < value < _BIG
    if isinstance(value, dict):
        return _examine_names(value) | _examine_items(value.values(), room)
    if isinstance(value, (list, tuple)):
        return _examine_items(value, room)
    _examine(_plain(value), room)
    return True


def _examine_items(items: Iterable[Any], room: int) -> bool:
    if room == 0:
        raise invalid(f"Lists and objects may be nested {MAX_DEPTH} deep.")
    special = False
    for item in items:
        if _examine(item, room - 1):
            special = True
    return special


def _examine_names(names: Iterable[Any]) -> bool:
    for name in names:
        if not isinstance(name, str):
            raise invalid(f"The names in an object must be strings, not {type(name).__name__}: use str().")
        if "\0" in name:
            raise invalid("A string may not hold the character NUL.")
    return False


def _written(value: Any) -> str:
    if isinstance(value, float):
        return _dumps(value) if -_BIG < value < _BIG else _written_out(value)
    if value is None or isinstance(value, (str, int)):
        return _dumps(value)
    if isinstance(value, dict):
        return object_text((name, _written(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([_written(item) for item in value]) + "]"
    return _written(_plain(value))


def _written_out(number: float) -> str:
    from decimal import Decimal

    # The shortest digits that mean this float, not its exact ones: 1e23 + 1 is computed from what people wrote.
    return f"{Decimal(repr(number)):f}.0"


def _plain(value: Any) -> Any:
    """A pydantic model or a dataclass as an object."""
    if not isinstance(value, type):
        if callable(dump := getattr(value, "model_dump", None)):
            return dump(mode="json")
        if (fields := getattr(value, "__dataclass_fields__", None)) is not None:
            return {name: getattr(value, name) for name in fields}
    raise invalid(f"{type(value).__name__} is no JSON value: store a string, number, boolean, list, dict or None.")
