"""`flow container check` and `flow audit`, as far as they need no database."""

from __future__ import annotations

import argparse
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot.auditcommand import _count, _printable, _since
from bot.cli import main
from worklets.containerkeys import PLACE


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_WORKLET_MEMORY", "1g")
    (tmp_path / ".claude").mkdir()
    return tmp_path


def test_a_file_in_order(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / PLACE).write_text("name: shop\nresources:\n  memory: 4g\n")
    assert main(["container", "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{PLACE}:3:11: resources.memory asks for 4 GiB; a worklet has 1 GiB.",
        f"{PLACE}: in order.",
    ]


def test_a_file_with_faults_and_none_at_all(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / PLACE).write_text("nmae: x\nname: [x]\n")
    assert main(["container", "check", str(repository / PLACE)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.partition("container.yaml:")[2][:5] for line in told.err.splitlines()] == ["1:1: ", "2:7: "]
    assert main(["container", "check", str(repository / "nowhere")]) == 3
    assert "there is no such file" in capsys.readouterr().err
    (repository / PLACE).unlink()
    (repository / PLACE).mkdir()
    assert main(["container", "check"]) == 1
    assert "is no file in this repository." in capsys.readouterr().err
    assert main(["container", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["name"]


def test_what_a_worklets_start_would_refuse(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / ".claude" / "container.yml").write_text("name: shop\n")
    assert main(["container", "check"]) == 1
    assert "container.yml is not read; call it .claude/container.yaml" in capsys.readouterr().err
    (repository / PLACE).symlink_to(repository / ".claude" / "container.yml")
    assert main(["container", "check"]) == 1
    assert "is a link in this repository" in capsys.readouterr().err


def test_decisions_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_DSN", f"sqlite://{tmp_path}/db.sqlite")
    assert main(["audit", "--decisions"]) == 0
    assert capsys.readouterr().out == "nothing was decided\n"
    row = "NULL, 's1', 't1', 'a1', 'permission', 'mcp__flow__git_push', '{\"branch\": \"x\x1b\"}', 'allow', NULL"
    with closing(sqlite3.connect(tmp_path / "db.sqlite")) as database, database:
        names = "at, by, session_id, turn_id, ask_id, kind, tool, input, behavior, scope, rule, message"
        database.execute(f"INSERT INTO audit ({names}) VALUES ('2026-11-21 10:00:00.000000', {row}, '[\"R\"]', '')")
    assert main(["audit", "--decisions", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tool"], told["behavior"], told["by"], told["rules"]) == ("mcp__flow__git_push", "allow", None, ["R"])
    assert main(["audit", "--decisions", "--since", "2026-11-20"]) == 0
    assert "x·" in capsys.readouterr().out
    assert main(["audit", "--decisions", "--since", "2026-11-22"]) == 0
    assert "nothing" in capsys.readouterr().out


def test_times_and_numbers_of_the_audit() -> None:
    assert timedelta(hours=1) < datetime.now(UTC) - _since("2h") < timedelta(hours=3)
    assert _since("2026-11-21") == datetime(2026, 11, 21, tzinfo=UTC)
    assert _since("2026-11-21T10:00+02:00") == datetime(2026, 11, 21, 8, tzinfo=UTC)
    for wrong in ("yesterday", "", "-2h", "9" * 40):
        with pytest.raises(argparse.ArgumentTypeError, match="write it like 2h, 7d"):
            _since(wrong)
    assert _count("7") == 7
    for wrong in ("0", "x", "²", "1000001"):
        with pytest.raises(argparse.ArgumentTypeError):
            _count(wrong)
    assert _printable("a\x1b[2Jb\nc") == "a·[2Jb·c"
