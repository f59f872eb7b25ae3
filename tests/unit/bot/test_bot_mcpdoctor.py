"""What `flow doctor` says of the secrets of MCP servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from bot.mcpdoctor import lacking, servers
from bot.secretstores import open_secrets
from config.settings import load


@pytest.mark.parametrize(
    ("name", "values", "missing"),
    [
        ("github", {"token": "t"}, None),
        ("github", {"tokn": "t"}, "token"),
        ("postgres", {"token": "t"}, "dsn"),
        ("tracker", {"KEY": "k", "hosts": "a.example"}, None),
        ("tracker", {"KEY": "k"}, "hosts"),
        ("tracker", {"hosts": "a.example", "repositories": "*"}, "NAME"),
    ],
)
def test_what_a_secret_lacks(name: str, values: dict[str, str], missing: str | None) -> None:
    assert lacking(name, values) == missing


async def test_the_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SECRETS_KEY", Fernet.generate_key().decode())
    settings = load()
    assert (await servers(settings)).state == "skip"
    settings.share_dir.mkdir()
    store = open_secrets(settings)
    await store.put("mcp/github", {"token": "s3cret"})
    assert (await servers(settings)).text == "secrets for github"
    await store.put("mcp/tracker", {"KEY": "s3cret"})
    found = await servers(settings)
    await store.put("mcp/tracker", {"KEY": "s3cret", "hosts": "https://a.example"})
    wrong = await servers(settings)
    await store.put("mcp/tracker", {"KEY": "s3cret", "command": "KEY='${KEY}' tracker-mcp"})
    assert (await servers(settings)).text == "secrets for github, tracker"
    await store.put("mcp/tracker", {"KEY": "s3cret", "command": "'tracker-mcp"})
    torn = await servers(settings)
    await store.aclose()
    assert (torn.state, torn.text, torn.advice) == (
        "warn", "command of the secret mcp/tracker: No closing quotation", "flow secrets set mcp/tracker command",
    )  # fmt: skip
    assert wrong.state == "warn"
    assert wrong.text.startswith('hosts of the secret mcp/tracker: "https://a.example" is wrong')
    assert (found.state, found.text, found.advice) == (
        "warn", "the secret mcp/tracker has no value hosts", "flow secrets set mcp/tracker hosts",
    )  # fmt: skip
