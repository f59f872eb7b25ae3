"""The `flow` command itself."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from bot.cli import main


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"flow {version('flow-slack')}\n"
