"""What Claude may do without asking, as the CLI is told it. Pure values.

Held to CLI 2.1.329. Rules are the CLI's own: deny goes before ask, ask before allow, and deny and ask count in every
mode, `bypassPermissions` too. Settings that are applied to a running process replace those that were applied before;
those it was started with stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from worklets.mcpidentity import held
from worklets.toolrisk import RISKS, Risk, risk_of

#: Flow's names of permission modes, and the CLI's.
CLI_MODES = {"auto": "bypassPermissions", "ask": "default", "plan": "plan"}


@dataclass(frozen=True, slots=True)
class Permissions:
    """`mode`: auto (all is allowed but what rules deny or ask), ask (the CLI's default mode) or plan.

    `ask_risk`: in auto, tools of that level and above are asked for all the same; see `narrowed`.
    `aliases`: MCP servers of this worklet that are built-in ones under another name, with that of the built-in one.
    `scoped`: further rules that allow, each with the identity of the MCP server that it is about; `narrowed` alone
    knows which of them count in a worklet, and until then none does.
    """

    mode: str = "auto"
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ask_risk: Risk | None = None
    aliases: tuple[tuple[str, str], ...] = ()
    scoped: tuple[tuple[str, str], ...] = ()

    @property
    def cli_mode(self) -> str:
        return CLI_MODES[self.mode]

    def names(self, tool: str) -> bool:
        """Whether a rule allows the tool, or some of its calls."""
        mine = {tool, tool.rpartition("__")[0]}  # mcp__server: all tools of that server
        return any(rule.partition("(")[0].removesuffix("__*") in mine for rule in self.allow)

    def risk(self, tool: str) -> Risk:
        """Whatever name a repository has given a built-in server."""
        return risk_of(tool, dict(self.aliases))

    def settings(self) -> dict[str, Any]:
        """For `--settings` and `apply_flag_settings`: all lists, since one that is left out stays as it was."""
        lists = {"allow": list(self.allow), "ask": list(self.ask), "deny": list(self.deny)}
        # Else a classifier that only the vendor's servers have decides in plan mode, and refuses.
        return {"permissions": lists, "useAutoModeDuringPlan": False}


#: What `narrowed` takes away where it is not allowed. The others talk with people, or keep a checklist.
NARROWED = ("Bash", "Read", "Edit", "Write", "Grep", "Glob", "Task")


def narrowed(
    permissions: Permissions,
    allowed: tuple[str, ...] | None,
    servers: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
    identities: Mapping[str, str] | None = None,
) -> Permissions:
    """With no tool beyond `allowed`, rules in the CLI's syntax; None: as it was. `servers`: MCP servers' names.

    A tool that no rule names is denied. Of one that is allowed for some calls only, such as `Bash(git *)`, the others
    are asked for, in the mode auto too; so are tools of the level `ask_risk`. The CLI's own mode is then the one that
    asks, with all else allowed by rules: in other modes than auto nothing is allowed that was not. MCP servers are all
    allowed unless a rule names one. `aliases`: see `Permissions`; the rules on a built-in server hold under its other
    names too. `identities`: of the servers, by name (worklets/mcpidentity.py): scoped rules count for those only.
    """
    if permissions.scoped:
        mine = [one for rule, server in permissions.scoped for one in held(rule, server, identities or {})]
        permissions = replace(permissions, allow=tuple(dict.fromkeys((*permissions.allow, *mine))), scoped=())
    if aliases:
        permissions = replace(
            permissions,
            allow=_aliased(permissions.allow, aliases),
            ask=_aliased(permissions.ask, aliases),
            deny=_aliased(permissions.deny, aliases),
            aliases=tuple(sorted(aliases.items())),
        )
    known = [f"mcp__{server}" for server in servers]
    wanted = [*NARROWED, *known] if allowed is None else list(allowed)
    tools = {_tool(rule) for rule in wanted}
    denied = [tool for tool in NARROWED if tool not in tools]
    if not any(tool.startswith("mcp__") for tool in tools):
        wanted += known
    else:
        denied += [server for server in known if not any(tool.split("__")[:2] == server.split("__") for tool in tools)]
    if permissions.mode == "auto":
        permissions = _asking(permissions, wanted, allowed is not None)
    return replace(permissions, deny=tuple(dict.fromkeys((*permissions.deny, *denied))))


def _asking(permissions: Permissions, wanted: Sequence[str], limited: bool) -> Permissions:
    level = permissions.ask_risk
    partly = limited and any("(" in rule or rule.count("__") > 1 for rule in wanted)
    if level is None and not limited:
        return permissions
    if level is not None:
        wanted = [rule for rule in wanted if RISKS.index(permissions.risk(_tool(rule))) < RISKS.index(level)]
    mode = "ask" if partly or level is not None else "auto"
    return replace(permissions, mode=mode, allow=tuple(dict.fromkeys((*permissions.allow, *wanted))))


def _aliased(rules: tuple[str, ...], aliases: Mapping[str, str]) -> tuple[str, ...]:
    found = list(rules)
    for alias, builtin in aliases.items():
        said = f"mcp__{builtin}"
        mine = [rule for rule in rules if _tool(rule) == said or _tool(rule).startswith(f"{said}__")]
        found += [f"mcp__{alias}{rule[len(said) :]}" for rule in mine]
    return tuple(dict.fromkeys(found))


def _tool(rule: str) -> str:
    return rule.partition("(")[0]


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
