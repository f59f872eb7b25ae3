"""What `flow doctor` says of the way out; names are looked up for real, and none of these exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.egressdoctor import egress
from config.settings import Settings
from config.slices.egress import EgressSettings
from config.slices.sessions import WorkletSettings


def settings(runtime: str = "docker", **own: object) -> Settings:
    found = Settings.model_construct(share_dir=Path("unused"))
    object.__setattr__(found, "egress", EgressSettings(**own))  # type: ignore[arg-type]
    object.__setattr__(found, "worklets", WorkletSettings(runtime=runtime))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("own", "runtime", "level", "says"),
    [
        ({}, "local", "ok", "reach nothing outside"),
        ({"mode": "open"}, "docker", "warn", "can send what they hold anywhere"),
        ({"mode": "open", "deny": "evil.test"}, "docker", "ok", "reach every public host"),
        ({"mode": "open", "deny_networks": "203.0.113.0/24"}, "docker", "ok", "reach every public host"),
        ({"mode": "allow-list", "hosts": "*.example.org", "ask": "*"}, "docker", "ok", "1 named hosts; people may"),
        ({"mode": "allow-list", "ask": "*.example.org"}, "docker", "ok", "no host by itself; people may allow *.ex"),
        ({"mode": "allow-list", "hosts": "*.example.org"}, "local", "warn", "not enforced by the local runtime"),
        ({"mode": "allow-list", "hosts": "no-such.invalid:8443"}, "docker", "warn", "no-such.invalid has no address"),
    ],
)  # fmt: skip
async def test_it_warns_of_what_is_not_as_it_looks(own: dict[str, str], runtime: str, level: str, says: str) -> None:
    finding = await egress(settings(runtime, **own))
    assert finding.state == level
    assert says in finding.text
    assert bool(finding.advice) is (level == "warn")
