"""What `flow doctor` says of previews, before people press a button that leads nowhere."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from bot.doctor import find
from bot.previewdoctor import previews
from config.settings import load

PUBLIC = "203.0.113.7"


def leading_to(*addresses: str, asked: list[str] | None = None) -> object:
    def resolve(host: str) -> Sequence[str]:
        if asked is not None:
            asked.append(host)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return addresses

    return resolve


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path))
    monkeypatch.setenv("FLOW_RUNTIME", "docker")
    monkeypatch.delenv("FLOW_PREVIEW_URL", raising=False)


async def test_without_an_address_it_says_what_is_missing() -> None:
    found = await find("previews", load())
    assert (found.state, found.advice) == ("skip", "")
    assert "Claude cannot show people the servers that it starts (FLOW_PREVIEW_URL is not set)" in found.text


@pytest.mark.parametrize(
    ("url", "addresses", "state", "says"),
    [
        ("https://*.preview.example.org", (PUBLIC,), "ok", f"https://*.preview.example.org, at {PUBLIC}"),
        ("https://*.p.example.org", tuple(f"10.0.0.{n}" for n in range(9)), "ok", "at 10.0.0.0, 10.0.0.1, 10.0.0.2"),
        ("https://*.preview.example.org", (), "warn", "no name below preview.example.org is found from here"),
        ("https://*.preview.example.org", ("127.0.0.1", "::1"), "warn", "only browsers on this machine open them"),
        ("https://*.preview.example.org", ("127.0.0.1", PUBLIC), "ok", PUBLIC),
        ("https://*.preview.example.org", ("fe80::1%eth0",), "ok", "fe80::1%eth0"),
        ("http://*.preview.example.org", (PUBLIC,), "warn", "pass unencrypted"),
        ("http://*.localhost:0", (), "ok", "http://*.localhost:8099: only browsers on this machine open them"),
        ("http://*.dev.localhost", (), "ok", "only browsers on this machine"),
    ],
)
async def test_who_can_open_them(
    url: str, addresses: tuple[str, ...], state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_PREVIEW_URL", url)
    monkeypatch.setenv("FLOW_HTTP_PORT", "8099")
    found = await previews(load(), leading_to(*addresses))
    assert found.state == state
    assert says in found.text
    assert bool(found.advice) is (state == "warn")


async def test_a_name_like_a_previews_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setenv("FLOW_PREVIEW_URL", "https://*.preview.example.org:8443")
    await previews(load(), leading_to(PUBLIC, asked=asked))
    assert asked == ["0000000000000000.preview.example.org"]


@pytest.mark.parametrize("domain", ["no-such.invalid", "x" * 64 + ".invalid"])
async def test_names_that_are_not_there_for_real(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_PREVIEW_URL", f"https://*.{domain}")
    found = await find("previews", load())
    assert found.state == "warn"
    assert f"*.{domain}" in found.advice


async def test_the_local_runtime_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_RUNTIME", "local")
    monkeypatch.setenv("FLOW_PREVIEW_URL", "https://*.preview.example.org")
    found = await find("previews", load())
    assert (found.state, "the local runtime has no previews" in found.text) == ("warn", True)
