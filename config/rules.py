"""Lists of permission rules in Claude Code's syntax, as they stand in a setting: `Bash(git *), WebFetch`."""

from __future__ import annotations

import json
import re

_RULE = re.compile(r"[A-Za-z_][\w-]*(\*|\(.+\))?", re.DOTALL)


def parse_rules(value: object) -> tuple[str, ...]:
    """From a JSON list, or names with commas between them (those in parentheses belong to a rule).

    Raises ValueError with a sentence about the first rule that is none.
    """
    rules = _listed(value)
    for rule in rules:
        if not _RULE.fullmatch(rule):
            raise ValueError(f'"{rule}" is not a permission rule; write it like Bash(git push *) or WebFetch')
    return tuple(dict.fromkeys(rules))


def _listed(value: object) -> list[str]:
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return _split(value)
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("it begins like a JSON list, and is none") from None
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise ValueError("it is not a list of rules")
    return [one.strip() for one in found]


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
