"""What an administrator is told of secrets before there are any."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.cli import main
from bot.doctor import find
from config.settings import load


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path / "share"))
    return tmp_path / "share"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOW_SECRETS_KEY_FILE", str(tmp_path / "key"))


async def test_in_a_container_a_key_has_to_be_given_first(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    found = await find("secrets", load())
    assert (found.state, "must outlive this container" in found.text) == ("warn", True)
    assert "Set FLOW_SECRETS_KEY to what" in found.advice
    assert not share.exists()
    monkeypatch.setenv("FLOW_SECRETS_KEY_FILE", str(share.parent / "key"))
    assert (await find("secrets", load())).state == "ok"


@pytest.mark.usefixtures("key", "share")
async def test_a_vault_that_is_set_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example.org:8200")
    assert (await find("secrets", load())).state == "ok"  # nobody can log in there
    monkeypatch.setenv("VAULT_TOKEN", "s.value-1")
    found = await find("secrets", load())
    assert (found.state, "Vault's settings are not used" in found.text) == ("warn", True)
    assert "FLOW_SECRETS=vault" in found.advice
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("FLOW_SECRETS_KEY_FILE")
    assert "none can be stored: their key must outlive this container; Vault's" in (await find("secrets", load())).text


@pytest.mark.usefixtures("key", "share")
def test_an_empty_list_says_so_beside_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["secrets", "list"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "no secrets yet; store one with `flow secrets set`\n")
