"""A Docker engine on another machine."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from config.slices.base import Slice, setting


def _address(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:]+\](:\d{1,5})?", value):
        raise ValueError("it has to be a host, with a port or without, such as engine.example.org:7443")
    return value


def _ip(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("it has to be an IP address of the engine's machine, or 0.0.0.0 for all of them") from None


class RemoteSettings(Slice):
    certificates: Path | None = setting(
        "DOCKER_CERT_PATH", None, "Directory with ca.pem, cert.pem and key.pem for an engine at tcp://."
    )
    gate_port: int = setting(
        "FLOW_GATE_PORT", 7443, "Port of Flow's gate on a remote engine's machine.", ge=1, le=65535
    )
    gate_listen: Annotated[str, AfterValidator(_ip)] = setting(
        "FLOW_GATE_LISTEN",
        "0.0.0.0",  # noqa: S104 - the gate lets in one certificate only
        "Address of that machine at which the gate listens.",
    )
    gate_address: Annotated[str | None, AfterValidator(_address)] = setting(
        "FLOW_GATE_ADDRESS",
        None,
        "Where Flow reaches the gate, if not at the engine's host; makes any engine a remote one.",
    )
