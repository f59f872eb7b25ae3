"""What the gateway is told of sidecars, and what these may reach outside. Pure.

A sidecar's grant is one of the subject "mcp": {"tracker": {"command": [...], "env": {...}, "hosts": [...], "secrets":
[...], "image", "sidecar": directory}}. `hosts` bound its way out within the worklet's own; `secrets` stand in values of
`env`, and are taken out of what is told of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worklets.egressgrants import SUBJECT as EGRESS

_MCP = "mcp"


def sidecars_in(grants: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The grants of a worklet's sidecars, by the names of their servers."""
    servers = grants.get(_MCP)
    return {name: one for name, one in (servers or {}).items() if isinstance(one, Mapping) and "command" in one}


def placed(grants: Mapping[str, Any], directories: Mapping[str, Path]) -> dict[str, Any]:
    """The grants with the directory of each sidecar, where the gateway listens."""
    servers = dict(grants.get(_MCP) or {})
    for name, directory in directories.items():
        servers[name] = {**servers[name], "sidecar": str(directory)}
    return {**grants, _MCP: servers} if servers else dict(grants)


def ways_out(worklet: str, grants: Mapping[str, Any]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """By the name of its door to the proxy: the directory of each sidecar with hosts, and its grant of "egress".

    It is the worklet's, with the sidecar's hosts as a further bound. Nobody is asked for it.
    """
    own = grants.get(EGRESS) or {}
    found = {}
    for name, one in sidecars_in(grants).items():
        if one.get("hosts") and "sidecar" in one:
            within = [*own.get("within", ()), list(one["hosts"])]
            found[f"{worklet}.{name}"] = (Path(one["sidecar"]), {**own, "within": within, "asks": False})
    return found
