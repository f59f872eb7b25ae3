"""What holds for one worklet's way out beside the settings, as a value. Pure.

Three voices, and none goes beyond the settings:

- its template and its repository's container.yaml tighten: what they do not name is out of reach, and not asked for;
- people allow single hosts, where FLOW_EGRESS_ASK lets them, and refuse others;
- while nobody works with Claude, nobody is asked.

As JSON it is the grant of the subject "egress" (`ModelGateway.open`):

    {"within": [["example.org", "*.example.net"]], "granted": ["a.example:443"], "refused": ["b.example:443"],
     "asks": true}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from config.hosts import HostRule, host_name, parse_host, parse_hosts
from worklets.profile import Profile

SUBJECT = "egress"
Place = tuple[str, int]  # a host and a port


@dataclass(frozen=True, slots=True)
class Grant:
    """`within`: each is a bound of its own. `asks`: there are people who can be asked."""

    within: tuple[tuple[HostRule, ...], ...] = ()
    granted: frozenset[Place] = frozenset()
    refused: frozenset[Place] = frozenset()
    asks: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> Grant:
        """Raises ValueError, KeyError, TypeError, AttributeError for what is none."""
        if told is None:
            return cls()
        within = tuple(tuple(map(parse_host, hosts)) for hosts in told.get("within", ()))
        granted, refused = (frozenset(map(place_of, told.get(name, ()))) for name in ("granted", "refused"))
        return cls(within, granted, refused, told.get("asks") is True)

    def bounds(self, host: str, port: int) -> bool:
        """Whether a template or container.yaml leaves the host out."""
        return any(not any(rule.covers(host, port) for rule in hosts) for hosts in self.within)


#: Of a grant that cannot be read: it may have tightened.
CLOSED = Grant(within=((),))


def named(place: Place) -> str:
    """`example.org:443`, as `place_of` reads it."""
    return f"{place[0]}:{place[1]}"


def place_of(text: str) -> Place:
    """Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("that is not a host and a port")
    return host_name(host), int(port)


def tightened(profile: Profile, hosts: Iterable[str]) -> Profile:
    """The profile of a worklet that reaches no hosts but these, as far as it reached them before; none: nothing.

    Hosts are written as in FLOW_EGRESS_HOSTS. Raises ValueError with a sentence about the first that is none.
    """
    grant = dict(profile.grants.get(SUBJECT) or {})
    grant["within"] = [*grant.get("within", ()), list(parse_hosts(list(hosts)))]
    return replace(profile, grants={**profile.grants, SUBJECT: grant})
