"""What a worklet may reach outside, as a value; and which addresses are the public internet's. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from config.hosts import HostRule, parse_host
from worklets.egressgrants import CLOSED, Grant
from worklets.egressnetworks import Network, networks

if TYPE_CHECKING:
    from config.slices.egress import EgressSettings

Mode = Literal["none", "allow-list", "open"]

_NAMED = 30  # hosts that a sentence lists
#: Public by the registries (`is_global`), but inward all the same: 6to4 relays, IETF protocols, Azure's WireServer.
_INWARD_4 = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
#: Global unicast (RFC 4291 2.4). Outside of it lie mapped IPv4 addresses, NAT64, site-local ones, multicast.
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
#: Within it: Teredo and other protocols, documentation, 6to4. Python 3.11 takes some of them for public.
_INWARD_6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Hosts without a port of their own are allowed at `ports`, and denied at all.

    `networks` are not dialled, whatever leads there. `ask`: further hosts, for which people may be asked; if `ask_all`,
    every one at `ports`. `grant`: what holds for one worklet alone.
    """

    mode: Mode = "none"
    allow: tuple[HostRule, ...] = ()
    deny: tuple[HostRule, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    networks: tuple[Network, ...] = ()
    ask: tuple[HostRule, ...] = ()
    ask_all: bool = False
    ask_wait: float = 100.0  # seconds that a connection waits for an answer
    grant: Grant = Grant()  # noqa: RUF009 - a value

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> EgressPolicy:
        """From what `told` made. None: no way out. Raises ValueError, KeyError."""
        if told is None:
            return cls()
        allow, deny, ask = (
            tuple(parse_host(host) for host in told[name] if host != "*") for name in ("hosts", "deny", "ask")
        )
        if told["mode"] not in ("none", "allow-list", "open"):
            raise ValueError("mode")
        ports, denied = tuple(map(int, told["ports"])), networks(told["deny_networks"])
        return cls(told["mode"], allow, deny, ports, denied, ask, "*" in told["ask"], float(told["ask_wait"]))

    @property
    def asks(self) -> bool:
        """People may be asked for something."""
        return self.mode != "none" and bool(self.ask or self.ask_all)

    def granted(self, grant: Mapping[str, Any] | None) -> EgressPolicy:
        """The policy of the worklet with that grant (`worklets.egressgrants`); one that is no grant allows nothing."""
        try:
            return replace(self, grant=Grant.of(grant))
        except (ValueError, KeyError, TypeError, AttributeError):
            return replace(self, grant=CLOSED)

    def refusal(self, host: str, port: int) -> str | None:
        """Why the host, in the form of `config.hosts.host_name`, may not be reached at that port; None: it may."""
        if (bound := self._bound(host, port)) is not None:
            return bound
        rules = [rule for rule in self.allow if rule._replace(port=None).covers(host, port)]
        if any(port in self._at(rule) for rule in rules) or (self.mode == "open" and port in self.ports):
            return None
        if self._askable(host, port):
            return self._undecided(host, port)
        if self.mode == "open" or rules:
            ports = {*(self.ports if self.mode == "open" else ()), *(at for rule in rules for at in self._at(rule))}
            return f"Flow's administrator allows it only at port {_listed(sorted(ports), 'or')} (FLOW_EGRESS_PORTS)"
        allowed = _listed(self.allow, "and") or "no other host"
        return f"Flow's administrator allows {allowed}; ask for it to be added to FLOW_EGRESS_HOSTS"

    def may_ask(self, host: str, port: int) -> bool:
        """Of what is refused: whether people could allow it, there are some, and they have not refused it."""
        undecided = self._bound(host, port) is None and self._askable(host, port)
        return undecided and self.grant.asks and (host, port) not in self.grant.refused

    def _bound(self, host: str, port: int) -> str | None:
        """Why nobody could allow it but the administrator, or whoever wrote what the worklet was made from."""
        if self.mode == "none":
            return "Flow's administrator lets worklets reach nothing outside (FLOW_EGRESS=none)"
        if any(rule.covers(host, port) for rule in self.deny):
            return "Flow's administrator has denied it (FLOW_EGRESS_DENY)"
        if self.grant.bounds(host, port):
            return "this worklet's template or its repository's container.yaml does not name it (allowedDomains)"
        return None

    def _askable(self, host: str, port: int) -> bool:
        rules = [rule for rule in self.ask if rule._replace(port=None).covers(host, port)]
        return any(port in self._at(rule) for rule in rules) or (self.ask_all and port in self.ports)

    def _undecided(self, host: str, port: int) -> str | None:
        """Of what people decide: None if they have allowed it."""
        if (host, port) in self.grant.granted:
            return None
        if (host, port) in self.grant.refused:
            return "people in the thread have refused it"
        if not self.grant.asks:
            return "people in the thread would have to allow it, and nobody works with Claude just now"
        return "people in the thread have not allowed it"

    def _at(self, rule: HostRule) -> tuple[int, ...]:
        return (rule.port,) if rule.port else self.ports

    def described(self) -> str:
        """What can be reached, as the object of "reaches": "example.org and *.example.net at port 80 or 443"."""
        portless = any(not rule.port for rule in self.allow)
        at = f"at port {_listed(self.ports, 'or')}" if self.mode == "open" or portless else ""
        hosts = _listed(self.allow, "and") or "nothing by itself"
        if self.mode == "open":
            hosts = "every public host"
        bounds = [_listed(rules, "and") or "nothing" for rules in self.grant.within]
        only = "".join(f", of these only {bound}" for bound in bounds)
        but = f", but not {_listed(self.deny, 'and')}" if self.deny else ""
        return f"{hosts} {at}".rstrip() + only + but

    def askable(self) -> str:
        """Hosts for which people may be asked, as a sentence names them."""
        return "every other host" if self.ask_all else _listed(self.ask, "and")


def told(settings: EgressSettings) -> dict[str, Any]:
    """The settings as they go to a gateway's process."""
    return {
        "mode": settings.mode,
        "hosts": list(settings.hosts),
        "deny": list(settings.deny),
        "deny_networks": list(settings.deny_networks),
        "ask": list(settings.ask),
        "ask_wait": settings.ask_wait,
        "ports": list(settings.ports),
    }


def is_public(address: str) -> bool:
    """Whether that IPv4 or IPv6 address is one of the public internet, and not another one in disguise."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _INWARD_4)
    return ip in _UNICAST_6 and ip.scope_id is None and not any(ip in network for network in _INWARD_6)


def _listed(values: Sequence[object], last: str) -> str:
    words = list(map(str, values[:_NAMED]))
    if len(values) > _NAMED:
        words.append(f"{len(values) - _NAMED} more")
        last = "and"
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
