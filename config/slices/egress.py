"""What worklets may reach outside: nothing, named hosts, or every public host."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from config.hosts import parse_askable, parse_hosts, parse_networks, parse_ports
from config.slices.base import Seconds, Slice, setting

Hosts = Annotated[tuple[str, ...], BeforeValidator(parse_hosts)]
Askable = Annotated[tuple[str, ...], BeforeValidator(parse_askable)]
Networks = Annotated[tuple[str, ...], BeforeValidator(parse_networks)]
Ports = Annotated[tuple[int, ...], BeforeValidator(parse_ports)]


class EgressSettings(Slice):
    mode: Literal["none", "allow-list", "open"] = setting(
        "FLOW_EGRESS", "none", "What worklets may reach outside: none, allow-list or open (every public host)."
    )
    hosts: Hosts = setting(
        "FLOW_EGRESS_HOSTS", (), "Hosts that worklets may reach, e.g. example.org,*.example.net:8443."
    )
    deny: Hosts = setting("FLOW_EGRESS_DENY", (), "Hosts that they may not reach, whatever else allows it.")
    deny_networks: Networks = setting(
        "FLOW_EGRESS_DENY_NETWORKS", (), "Networks that no host may lead into, e.g. 203.0.113.0/24,2001:db8::/48."
    )
    ask: Askable = setting(
        "FLOW_EGRESS_ASK", (), "Other hosts that people in the thread may allow when asked; * is every public host."
    )
    ask_wait: Seconds = setting(
        "FLOW_EGRESS_ASK_WAIT", 100.0, "How long a connection waits for people's answer.", ge=1, le=3600
    )
    ports: Ports = setting("FLOW_EGRESS_PORTS", (80, 443), "Ports of hosts that are given without one.")

    @model_validator(mode="after")
    def _says_what_it_means(self) -> Self:
        if self.mode == "allow-list" and not (self.hosts or self.ask):
            raise ValueError("FLOW_EGRESS=allow-list needs FLOW_EGRESS_HOSTS or FLOW_EGRESS_ASK")
        for name, value in (("FLOW_EGRESS_HOSTS", self.hosts), ("FLOW_EGRESS_ASK", self.ask)):
            if value and "mode" not in self.model_fields_set:
                raise ValueError(f"{name} is set, but not FLOW_EGRESS; set FLOW_EGRESS=allow-list too")
        return self
