"""How near an engine is to what its networks can hold. Pure: from what it tells of itself."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

#: The engine's own pools: 172.17.0.0/16 to 172.31.0.0/16, and 192.168.0.0/16 in /20 (Docker Engine, libnetwork).
_DEFAULT = 31


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """`capacity`: networks for which there are addresses. `fullest`: containers that run on one bridge, the most."""

    networks: int
    capacity: int
    fullest: int = 0
    fullest_name: str = ""


def network_use(
    info: Mapping[str, Any], networks: Sequence[Mapping[str, Any]], containers: Sequence[Mapping[str, Any]]
) -> NetworkUse:
    """From `GET /info`, `GET /networks` and `GET /containers/json` (Docker Engine API)."""
    bridges = {network["Name"] for network in networks if network.get("Driver") == "bridge"}
    used = Counter[str]()
    for container in containers:
        joined = (container.get("NetworkSettings") or {}).get("Networks") or {}
        used.update(name for name in joined if name in bridges)
    name, most = (used.most_common(1) or [("", 0)])[0]
    return NetworkUse(len(bridges), _capacity(info.get("DefaultAddressPools") or ()), most, name)


def _capacity(pools: Sequence[Mapping[str, Any]]) -> int:
    """What the daemon was told to give; its own where it was told nothing, or nothing that we understand."""
    found = 0
    for pool in pools:
        with suppress(ValueError, KeyError, TypeError):
            base = ipaddress.ip_network(str(pool["Base"]), strict=False)
            if base.version == 4 and int(pool["Size"]) >= base.prefixlen:
                found += 2 ** min(32, int(pool["Size"]) - base.prefixlen)
    return found or _DEFAULT
