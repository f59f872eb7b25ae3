"""`flow container check` of a base image: as a worklet's start judges it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.cli import main
from worklets.containerkeys import PLACE


@pytest.mark.parametrize(
    ("base", "allowed"), [("node:22", False), ("python:3.12-slim", True), ("debian:bookworm-slim", True)]
)
def test_a_base_image_that_is_not_allowed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], base: str, allowed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_BASE_IMAGES", "python:3.*")
    (tmp_path / ".claude").mkdir()
    (tmp_path / PLACE).write_text(f"name: shop\nbaseImage: {base}\n")
    assert main(["container", "check"]) == 0
    refused = (
        f"{PLACE}:2:12: The base image {base} is not among those that Flow's administrator allows (FLOW_BASE_IMAGES), "
        "so the usual one is used."
    )
    assert capsys.readouterr().out.splitlines() == [*([] if allowed else [refused]), f"{PLACE}: in order."]
