"""Networks that the machine itself is part of: their hosts are neighbours, also where their addresses are public.

A company's or a provider's network may number its machines with public addresses and let the neighbours reach what its
firewall keeps from everybody else.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_READ_AGAIN = 10.0  # seconds
_ROUTES_4, _ROUTES_6 = Path("/proc/net/route"), Path("/proc/net/ipv6_route")
_GATEWAY = 0x2  # RTF_GATEWAY (linux/route.h)
_WIDEST = {4: 8, 6: 16}  # a shorter prefix on a link is a default route in disguise, such as 0.0.0.0/1 of a tunnel


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Raises ValueError."""
    return tuple(map(ipaddress.ip_network, texts))


def contains(networks: Sequence[Network], address: str) -> bool:
    """Also for what is no address: that is in none."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in networks)


def on_link(routes_4: str, routes_6: str) -> tuple[Network, ...]:
    """Networks that are reached without a gateway, of the texts of /proc/net/route and /proc/net/ipv6_route."""
    found: list[Network] = []
    for line in routes_4.splitlines()[1:]:
        _, destination, _, flags, _, _, _, mask, *_ = line.split()
        if not int(flags, 16) & _GATEWAY:
            base, width = (int.from_bytes(bytes.fromhex(each), "little") for each in (destination, mask))
            found.append(ipaddress.IPv4Network((base, width.bit_count())))
    for line in routes_6.splitlines():
        destination, length, _, _, via, _, _, _, flags, _ = line.split()
        if not int(flags, 16) & _GATEWAY and not int(via, 16):
            found.append(ipaddress.IPv6Network((int(destination, 16), int(length, 16)), strict=False))
    return tuple(network for network in found if network.prefixlen >= _WIDEST[network.version])


class Neighbours:
    """Says of an address whether it is on one of the machine's own networks, as the kernel has them now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until = clock, float("-inf")
        self._networks: tuple[Network, ...] = ()

    def __contains__(self, address: object) -> bool:
        if self._clock() >= self._until:  # files of the kernel's own: reading them waits for nothing
            self._until = self._clock() + _READ_AGAIN
            self._networks = on_link(_text(_ROUTES_4), _text(_ROUTES_6))
        return contains(self._networks, str(address))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:  # a kernel without IPv6, or none of Linux
        return ""
