"""Claude Code's own commands, such as `/compact`: lines that the CLI reads itself instead of the model. Pure.

An unknown name is given to the model as it is (CLI 2.1.329), so nothing is lost by taking a line for one.
"""

from __future__ import annotations

import re

_COMMAND = re.compile(r"/([a-z][a-z0-9_:-]*)(?:\s.*)?", re.DOTALL)
_FORGETS = ("clear", "reset", "new")  # the CLI's names for one command


def is_command(text: str) -> bool:
    """A slash, a name and perhaps words; a path (`/etc/hosts`) is none."""
    return _COMMAND.fullmatch(text) is not None


def forgets(text: str) -> bool:
    """It begins the conversation anew."""
    found = _COMMAND.fullmatch(text)
    return found is not None and found[1] in _FORGETS
