"""Names of hosts as people and programs write them, and lists of hosts in settings: `example.org, *.example.net:8443`.

A host is compared in one form only: lower case, ASCII (IDNA 2008 after the mapping of UTS 46), no dot at its end.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_LONGEST = 253  # RFC 1035 2.3.4, without the root's dot


class HostRule(NamedTuple):
    """One host, or all hosts below a name; at one port, or at any (None)."""

    name: str
    below: bool = False
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        """`host` in the form of `host_name`. `*.example.org` means every depth, and not example.org itself."""
        named = host.endswith(f".{self.name}") if self.below else host == self.name
        return named and self.port in (None, port)

    def __str__(self) -> str:
        return ("*." if self.below else "") + self.name + (f":{self.port}" if self.port else "")


def host_name(text: str) -> str:
    """The one form of a host's full name. Raises ValueError, with a sentence, for anything else.

    Addresses are no names, in none of the spellings that resolvers read as one (127.1, 0x7f000001).
    """
    if len(text) > _LONGEST + 1:
        raise ValueError("that is not the name of a host")
    name = _ascii(text).removesuffix(".")
    labels = name.split(".")
    if _is_address(text) or _NUMBER.fullmatch(labels[-1]):
        raise ValueError("hosts are named, not given by address")
    if len(name) > _LONGEST or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("that is not the name of a host")
    if len(labels) < 2:
        raise ValueError("it is not a full name, such as example.org")
    return name


def parse_hosts(value: object) -> tuple[str, ...]:
    """The hosts of a list, or of a text with commas or spaces between them, each in its one form.

    Raises ValueError with a sentence about the first that is none.
    """
    if not isinstance(value, str | list | tuple):
        raise ValueError("it is not a list of hosts; write it like example.org, *.example.net")
    parts = re.split(r"[,\s]+", value) if isinstance(value, str) else [str(one).strip() for one in value]
    return tuple(dict.fromkeys(str(parse_host(part)) for part in parts if part))


def parse_host(text: str) -> HostRule:
    """`example.org`, `*.example.org`, either with `:port`. Raises ValueError."""
    if text == "*":
        raise ValueError('"*" is every host; for that set FLOW_EGRESS=open')
    name, colon, port = text.partition(":")
    below = name.startswith("*.")
    try:
        if "/" in text:
            raise ValueError("a host stands there without https:// and without a path")
        if colon and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("its port is none")
        # A wildcard may stand for a whole top-level domain.
        name = host_name(name.replace("*", "any", 1)).removeprefix("any.") if below else host_name(name)
    except ValueError as e:
        raise ValueError(f'"{text}" is wrong: {e}; write it like example.org, *.example.org or example.org:8443') from e
    return HostRule(name, below, int(port) if colon else None)


def parse_askable(value: object) -> tuple[str, ...]:
    """As `parse_hosts`; `*` among them is every host, beside those with ports of their own. Raises ValueError."""
    words = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    if isinstance(words, list | tuple) and "*" in words:
        return ("*", *parse_hosts([word for word in words if word != "*"]))
    return parse_hosts(value)


def parse_networks(value: object) -> tuple[str, ...]:
    """IPv4 and IPv6 networks of a list, or of a text with commas or spaces between them. Raises ValueError."""
    if not isinstance(value, str | list | tuple):
        raise ValueError("it is not a list of networks; write it like 203.0.113.0/24, 2001:db8::/48")
    parts = re.split(r"[,\s]+", value) if isinstance(value, str) else [str(one).strip() for one in value]
    try:
        return tuple(dict.fromkeys(str(ipaddress.ip_network(part)) for part in parts if part))
    except ValueError as e:
        raise ValueError(f"{e}; write it like 203.0.113.0/24, 2001:db8::/48") from e


def parse_ports(value: object) -> tuple[int, ...]:
    """Port numbers of a list, or of a text with commas or spaces between them. Raises ValueError."""
    parts = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    if isinstance(parts, int):
        parts = [parts]
    try:
        ports = tuple(dict.fromkeys(int(part) for part in parts))  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        ports = ()
    if not ports or not all(0 < port < 65536 for port in ports):
        raise ValueError(f'"{value}" is not a list of ports; write it like 80,443')
    return ports


def _ascii(text: str) -> str:
    if text.isascii():
        return text.lower()
    import idna

    try:
        return idna.encode(text, uts46=True).decode().lower()
    except idna.IDNAError:
        raise ValueError("that is not the name of a host") from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True
