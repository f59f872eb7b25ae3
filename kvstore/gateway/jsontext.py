"""JSON text as the store keeps it: compact UTF-8, within the limits that all backends share.

A number comes back equal to what was sent, in Python and in JavaScript: integers keep all their digits, and a float
of 1e16 and more is written out with ".0", because jsonb gives digits without an exponent back, which Python would
read as an integer that differs from the float.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Final

from kvstore.gateway.errors import Refusal, invalid, too_large

MAX_VALUE_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 128

_HUGE_DIGITS: Final = 309  # an integer with fewer is within a double's range
_MAYBE_HUGE_INTEGER = re.compile(rf"\d{{{_HUGE_DIGITS}}}")
_MAYBE_HUGE_EXPONENT = re.compile(r"[eE][+-]?\d{3}")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRING_OR_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|-?[\d.]+e\+\d+')
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode


def parse(text: str | bytes) -> Any:
    """What the JSON text says. Raises Refusal: no JSON, or a number outside a double's range. No limit on size."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
    except ValueError:
        raise _not_json() from None
    return _parse(text, careful=_MAYBE_HUGE_EXPONENT.search(text) is not None)


def compact(value: Any) -> str:
    """The value as it is stored. Raises Refusal: too large, too deep, with a NUL or with half a surrogate pair."""
    try:
        text = _encode(value)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # an infinite float, made of one that was written with an exponent
        raise _out_of_range() from None
    if "e+" in text:
        text = _written_out(text)
    if utf8_length(text) > MAX_VALUE_BYTES:
        raise _too_large()
    if "\\u0000" in text and _NUL.search(text):
        raise invalid("A string may not hold the character NUL.")
    check_depth(text, value)
    return text


def canonical(text: str) -> str:
    """`compact` of what the text says."""
    return compact(_parse(text))


def utf8_length(text: str) -> int:
    """In bytes. Raises Refusal for half a surrogate pair, which UTF-8 cannot hold."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise invalid("A string may not hold half a surrogate pair.") from None


def check_depth(text: str, value: Any, maximum: int = MAX_DEPTH) -> None:
    """Raises Refusal when lists and objects are nested more than `maximum` deep. `text` is the value's JSON."""
    if text.count("[") + text.count("{") <= maximum:
        return
    level = [value]
    for _ in range(maximum + 1):
        containers = [item for item in level if isinstance(item, (dict, list))]
        if not containers:
            return
        level = [i for c in containers for i in (c.values() if isinstance(c, dict) else c)]
    raise _too_deep()


def check_depth_of_text(text: str) -> None:
    """As `check_depth`, of compact JSON text."""
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_depth(text, json.loads(text))


def _parse(text: str, *, careful: bool = False) -> Any:
    """Not `careful`: a float outside the range comes as infinity, which `compact` refuses."""
    try:
        if careful or (len(text) >= _HUGE_DIGITS and _MAYBE_HUGE_INTEGER.search(text)):
            return json.loads(text, parse_constant=_constant, parse_int=_int, parse_float=_float)
        return _decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise _not_json() from None


def _written_out(text: str) -> str:
    """Raises Refusal as soon as the digits are too many: a number of five bytes may have three hundred."""
    digits = 0

    def written_out(match: re.Match[str]) -> str:
        nonlocal digits
        token = match[0]
        if token[0] == '"':
            return token
        # The shortest digits that mean the float, not its exact ones: sums are computed from them.
        number = f"{Decimal(token):f}.0"
        digits += len(number)
        if digits > MAX_VALUE_BYTES:
            raise _too_large()
        return number

    return _STRING_OR_EXPONENT.sub(written_out, text)


def _constant(_: str) -> None:
    raise invalid("NaN and Infinity are no JSON.")


def _int(digits: str) -> int:
    if len(digits) > 400:
        raise _out_of_range()
    number = int(digits)
    try:
        float(number)
    except OverflowError:
        raise _out_of_range() from None
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _out_of_range()
    return number


#: One decoder for all: `json.loads` makes a new one for each text when it is given anything.
_decode = json.JSONDecoder(parse_constant=_constant).decode


def _too_large() -> Refusal:
    return too_large(f"A value may have {MAX_VALUE_BYTES} bytes as compact JSON; this one has more.")


def _not_json() -> Refusal:
    return invalid("This is not valid JSON.")


def _out_of_range() -> Refusal:
    return invalid("A number is outside the range of a double.")


def _too_deep() -> Refusal:
    return invalid(f"Lists and objects may be nested {MAX_DEPTH} deep.")
