"""Which Docker engine the settings mean, and whether it is on another machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from config.errors import FlowError

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.engine import EngineAt

_HERE = ("localhost", "127.0.0.1", "::1")


class Reach(NamedTuple):
    """Where Flow reaches the gate of a remote engine."""

    host: str
    port: int


def engine_at(settings: Settings) -> EngineAt:
    from worklets.engine import EngineAt

    return EngineAt(settings.worklets.docker_host, settings.remote.certificates)


def gate_reach(settings: Settings) -> Reach | None:
    """None: the engine is on this machine. Raises FlowError for one that cannot be used."""
    host, remote = settings.worklets.docker_host or "", settings.remote
    if host.startswith(("ssh://", "http://", "https://", "npipe://")):
        scheme = host.partition(":")[0]
        raise FlowError(
            f"DOCKER_HOST={scheme}://… is no engine that Flow speaks to.",
            suggestion="Use tcp:// with DOCKER_CERT_PATH, or a tunnel over ssh: docs/remote-engines.md.",
        )
    name = urlsplit(host).hostname if host.startswith("tcp://") else None
    if remote.gate_address is not None:
        parts = urlsplit(f"//{remote.gate_address}")
        return Reach(parts.hostname or "", parts.port or remote.gate_port)
    if name is None or name in _HERE:
        return None
    if remote.certificates is None:
        raise FlowError(
            f"The Docker engine at {host} is on another machine, and no certificates are set for it.",
            suggestion="Set DOCKER_CERT_PATH: without TLS everybody in between has root rights there.",
        )
    return Reach(name, remote.gate_port)
