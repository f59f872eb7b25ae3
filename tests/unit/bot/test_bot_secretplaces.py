"""How people are told to store a secret, and where its key may lie."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.secretstores import file_store
from config.settings import load
from worklets.secrets import SecretError, check_path, check_values

ROOT = Path(__file__).parents[3]


def test_nothing_tells_people_to_put_a_value_on_the_command_line() -> None:
    texts = [*ROOT.glob("docs/*.md"), *(path for room in ("bot", "worklets") for path in ROOT.glob(f"{room}/*.py"))]
    wrong = [path.name for path in texts if re.search(r"flow secrets set [^`\n#<]*=", path.read_text())]
    assert wrong == []


def test_who_does_so_all_the_same_does_not_see_it_again() -> None:
    for wrong in (lambda: check_values({"token=s3cret-value": "x"}), lambda: check_path("git/app=s3cret-value")):
        with pytest.raises(SecretError) as error:
            wrong()
        assert "s3cret-value" not in error.value.sentence()


async def test_in_kubernetes_no_key_is_made_that_goes_with_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path / "share"))
    store = file_store(load())
    with pytest.raises(SecretError, match="outlives this container"):
        await store.put("a", {"token": "b"})
    await store.aclose()
