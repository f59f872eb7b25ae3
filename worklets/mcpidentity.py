"""What an MCP server is, whatever it is called: people's yes to a tool counts for the server that they saw. Pure.

A server's name is chosen by whoever wrote the repository's container.yaml, so the name alone says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from worklets.git import without_password
from worklets.mcpservers import Find, names_of

if TYPE_CHECKING:
    from worklets.containeryaml import McpServer

UNKNOWN = "unknown"  # the identity of a server that a worklet has not
_FLOW = "flow"  # Flow's own server, which no repository can name


def identities(
    servers: Iterable[McpServer], known: Mapping[str, object], repository: str | None, find: Find = lambda _: None
) -> dict[str, str]:
    """By name, of the servers that are `known`: those that a worklet really has.

    A built-in one is itself under every name and in every repository. One of a repository's own is another as soon as
    its address, command, arguments, environment or headers are written otherwise. `find`: see `mcpservers.resolve`.
    """
    called = names_of(repository, find)
    where = called[-1] if called else without_password(repository or "")
    return {server.name: _identity(server, where) for server in servers if server.name in known}


def _identity(server: McpServer, where: str) -> str:
    if server.builtin is not None:
        return builtin(server.builtin)
    text = json.dumps([where, asdict(server)], sort_keys=True)
    return "own:" + hashlib.sha256(text.encode()).hexdigest()


def builtin(name: str) -> str:
    """The identity of a built-in server."""
    return f"builtin:{name}"


def server_of(rule: str) -> str | None:
    """The name of the server that a rule in the CLI's syntax is about. None: of none that a repository could name."""
    parts = rule.partition("(")[0].split("__")
    return parts[1] if len(parts) > 1 and parts[0] == "mcp" and parts[1] != _FLOW else None


def identity_of(rule: str, known: Mapping[str, str]) -> str:
    """Of the server that the rule is about, in a worklet that has these; "" for a rule that is about none.

    A server that the worklet has not is nothing that people can have meant: the answer then fits no server.
    """
    name = server_of(rule)
    return "" if name is None else known.get(name, UNKNOWN)


def held(rule: str, identity: str, known: Mapping[str, str]) -> list[str]:
    """A rule that was meant for the server `identity`, under the names that this has in a worklet that has these."""
    name = server_of(rule)
    if name is None:
        return [rule]
    names = [one for one, what in known.items() if what == identity]
    if name not in known and builtin(name) == identity:
        names.append(name)  # its own name is that of no other (`permissions.narrowed`)
    return [f"mcp__{one}{rule.removeprefix(f'mcp__{name}')}" for one in names]
