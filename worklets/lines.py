"""What comes out of a worklet may be anything: what is no line of the CLI, and no event that can be stored or shown."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, get_args

from config.text import well_formed
from worklets.events import AgentEvent

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DEEPEST = 100  # levels of a tool's input: copying and storing it is recursive
_TYPES: dict[str, Any] = {
    "str": str,
    "str | None": str | None,
    "int": int,
    "int | None": int | None,
    "dict[str, Any]": dict,
}
_FIELDS: dict[type, list[tuple[str, Any]]] = {
    kind: [(one.name, _TYPES[str(one.type)]) for one in dataclasses.fields(kind) if one.type in _TYPES]
    for kind in get_args(AgentEvent)
}


def parse(line: bytes | str) -> dict[str, Any]:
    """The object that the line is; empty for what is none.

    Lone surrogates are replaced: the CLI is JavaScript, which cuts strings between the halves of an emoji.
    """
    text = line if isinstance(line, str) else line.decode(errors="replace")
    try:
        message = json.loads(text)
        if _SURROGATE.search(text):
            message = json.loads(well_formed(json.dumps(message, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def is_sound(event: AgentEvent) -> bool:
    """Its fields have the types that they should have, and are not nested too deeply."""
    for name, kind in _FIELDS[type(event)]:
        value = getattr(event, name)
        if not isinstance(value, kind) or not _is_flat(value, _DEEPEST):
            return False
    return True


def _is_flat(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_flat(one, levels - 1) for one in inner)
