"""What a tool can do at worst, as one of four levels: for the audit, and for whoever reads it. One table, pure.

The container is the boundary, so what stays in it is low or medium; what reaches people, services or data outside of
it is high or critical.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

Risk: TypeAlias = Literal["low", "medium", "high", "critical"]
RISKS: tuple[Risk, ...] = get_args(Risk)

#: Claude Code's tools (CLI 2.1.329), and some of other versions.
TOOLS: dict[str, Risk] = {
    # read, or talk with the people of the thread
    "Read": "low", "Grep": "low", "Glob": "low", "LS": "low", "NotebookRead": "low",
    "Task": "low", "Agent": "low",  # a sub-agent's own tools are counted themselves
    "TaskCreate": "low", "TaskUpdate": "low", "TaskList": "low", "TaskGet": "low", "TaskOutput": "low",
    "TaskStop": "low", "TodoWrite": "low", "ToolSearch": "low",
    "AskUserQuestion": "low", "EnterPlanMode": "low", "ExitPlanMode": "low",
    "ListMcpResourcesTool": "low", "ReadMcpResourceTool": "low", "BashOutput": "low", "KillShell": "low",
    # change the workspace
    "Edit": "medium", "MultiEdit": "medium", "Write": "medium", "NotebookEdit": "medium", "Skill": "medium",
    # run what a model wrote; reach outside
    "Bash": "high", "WebFetch": "high", "WebSearch": "medium",
}  # fmt: skip

#: MCP servers: all of one server's tools alike, by the most that they can do.
SERVERS: dict[str, Risk] = {
    "flow": "low",  # send_file: to the thread that asked
    "memory": "low",
    "filesystem": "medium",
    "fetch": "high",
    "playwright": "high",
    "sentry": "high",
    "linear": "high",
    "slack": "critical",  # speaks to people in the name of somebody
    "github": "critical",  # writes to repositories
    "postgres": "critical",  # other people's data
}
UNKNOWN_SERVER: Risk = "high"
UNKNOWN_TOOL: Risk = "high"


def server_of(tool: str) -> str | None:
    """The MCP server of `mcp__<server>__<tool>`; None: no such tool."""
    if not tool.startswith("mcp__"):
        return None
    return tool[len("mcp__") :].partition("__")[0]


def risk_of(tool: str, aliases: Mapping[str, str] | None = None) -> Risk:
    """Of a tool by the name that the CLI gives it. `aliases`: built-in servers by the other name that they go under."""
    if (server := server_of(tool)) is not None:
        return SERVERS.get((aliases or {}).get(server, server), UNKNOWN_SERVER)
    return TOOLS.get(tool, UNKNOWN_TOOL)


def is_tool(name: str) -> bool:
    """Whether a rule may name it: a tool of Claude Code, or an MCP server's (`mcp__github`, `mcp__github__*`)."""
    return name in TOOLS or (name.startswith("mcp__") and len(name) > len("mcp__"))
