"""Claude Code's own commands, such as `/compact`: lines that the CLI reads itself instead of the model. Pure.

A command goes out without what Claude should know and see first, so nothing else may be taken for one: `/tmp is full,
see the screenshot` is a prompt.
"""

from __future__ import annotations

import re

_COMMAND = re.compile(r"/([a-z][a-z0-9_:-]*)(?:\s.*)?", re.DOTALL)
#: Those of CLI 2.1.329 with their other names, by its reply to `initialize`.
_NAMES = """
    agents auto-mode-setup autocompact batch checkup claude-api clear code-review color compact config context
    cost dataviz debug deep-research doctor effort fast fewer-permission-prompts focus goal heapdump init
    insights list-agents loop mcp model name new output-style peers plugin-authoring proactive recap
    reload-plugins reload-skills rename reset review run run-skill-generator security-review settings simplify
    stats team-onboarding update-config usage verify workflow-authoring
"""
COMMANDS = frozenset(_NAMES.split())
_FORGETS = ("clear", "reset", "new")  # the CLI's names for one command


def is_command(text: str) -> bool:
    """A slash, a name that the CLI knows, and perhaps words."""
    found = _COMMAND.fullmatch(text)
    return found is not None and found[1] in COMMANDS


def forgets(text: str) -> bool:
    """It begins the conversation anew."""
    found = _COMMAND.fullmatch(text)
    return found is not None and found[1] in _FORGETS
