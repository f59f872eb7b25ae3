"""What Claude may do without asking, as the CLI is told it. Pure values.

Held to CLI 2.1.329. Rules are the CLI's own: deny goes before ask, ask before allow, and deny and ask count in every
mode, `bypassPermissions` too. Settings that are applied to a running process replace those it was started with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Flow's names of permission modes, and the CLI's.
CLI_MODES = {"auto": "bypassPermissions", "ask": "default", "plan": "plan"}


@dataclass(frozen=True, slots=True)
class Permissions:
    """`mode`: auto (all is allowed but what rules deny or ask), ask (the CLI's default mode) or plan."""

    mode: str = "auto"
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @property
    def cli_mode(self) -> str:
        return CLI_MODES[self.mode]

    def settings(self) -> dict[str, Any]:
        """For `--settings` and `apply_flag_settings`: all lists, since one that is left out stays as it was."""
        lists = {"allow": list(self.allow), "ask": list(self.ask), "deny": list(self.deny)}
        # Else a classifier that only the vendor's servers have decides in plan mode, and refuses.
        return {"permissions": lists, "useAutoModeDuringPlan": False}


def flow_mode(cli_mode: str) -> str:
    """Flow's name of the CLI's mode; acceptEdits is `ask` with a rule more."""
    names = {cli: flow for flow, cli in CLI_MODES.items()}
    return names.get(cli_mode, "ask")


#: The tools that change files: a rule for one does not cover the other.
EDITS = ("Edit", "Write")

_PATH_RULES = {"Edit": "Edit", "Write": "Edit", "Read": "Read"}  # a path is said of all tools that change files at once
_PATTERN = re.compile(r"[*?\[\]{}!()\\\n]")  # of paths: what would stand for others, or end the rule


def suggested(request: Mapping[str, Any]) -> tuple[str, ...]:
    """The rules that would let through what a `can_use_tool` asks for, and its like.

    The CLI's own suggestions. Where an ask rule made it ask there are none: then exactly this call, as a rule for more
    would undo what the ask rule is there for. Empty: no rule can say it.
    """
    tool, found = str(request.get("tool_name", "")), list[str]()
    if request.get("requires_user_interaction"):
        return ()
    if by_rule(request):
        return exact(tool, request.get("input") or {})
    given = request.get("permission_suggestions")
    for suggestion in given if isinstance(given, list) else []:
        if suggestion.get("type") == "addRules" and suggestion.get("behavior") == "allow":
            found += [_rule(rule["toolName"], rule.get("ruleContent")) for rule in suggestion["rules"]]
    if found:
        return tuple(dict.fromkeys(found))
    if tool in EDITS:
        return EDITS
    if tool == "Bash":
        return exact(tool, request.get("input") or {})
    return (tool,)


def exact(tool: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The rule for this very command, or for this very file; empty where the syntax has none."""
    if tool == "Bash":
        command = str(arguments.get("command", ""))
        plain = command and "*" not in command and "\n" not in command and not command.endswith(":")
        return (_rule(tool, command),) if plain else ()  # a star would stand for anything
    path = str(arguments.get("file_path", ""))
    if tool not in _PATH_RULES or not path.startswith("/") or _PATTERN.search(path):
        return ()
    return (_rule(_PATH_RULES[tool], f"/{path}"),)  # two slashes: from the root of the file system


def by_rule(request: Mapping[str, Any]) -> bool:
    """An ask rule made the CLI ask. No allow rule could have kept it from asking."""
    return request.get("decision_reason_type") == "rule" or "matched_ask_rule" in request


def _rule(tool: str, content: str | None) -> str:
    return f"{tool}({content})" if content else tool
