"""The MCP server with `send_file`: what it sends, what it refuses, and how it speaks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from worklets.files import Outgoing
from worklets.image.flowtools import Refused, Sender


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


def sender(workspace: Path, limit: int = 1000) -> Sender:
    return Sender(workspace, workspace.parent / "outgoing", limit, patience=0.0)


PREPARE: dict[str, Callable[[Path], object]] = {
    "link": lambda here: (here / "link").symlink_to("/etc/passwd"),
    "loop": lambda here: (here / "loop").symlink_to("loop"),
    "d": lambda here: (here / "d").mkdir(),
    "pipe": lambda here: os.mkfifo(here / "pipe"),
    "empty": lambda here: (here / "empty").touch(),
    "big": lambda here: (here / "big").write_bytes(bytes(1001)),
}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone.txt", "no file"),
        ("gone/gone.txt", "no file"),
        ("/etc/passwd", "not in the workspace"),
        ("../home/.bashrc", "not in the workspace"),
        (".", "not in the workspace"),
        ("link", "not in the workspace"),
        ("loop", "leads nowhere"),
        ("d", "no regular file"),
        ("pipe", "no regular file"),
        ("empty", "is empty"),
        ("big", "at most 1,000 bytes"),
        ("", "Give the path"),
        ("a\0b", "Give the path"),
        (7, "Give the path"),
    ],
)
def test_what_is_not_sent(workspace: Path, path: object, why: str) -> None:
    if isinstance(path, str) and path in PREPARE:
        PREPARE[path](workspace)
    with pytest.raises(Refused, match=why):
        sender(workspace).send({"path": path}, "t1")
    assert not (workspace.parent / "outgoing" / "t1").exists()


def test_a_link_within_the_workspace_is_followed(workspace: Path) -> None:
    (workspace / "build").mkdir()
    (workspace / "build" / "chart-3.png").write_bytes(b"png")
    (workspace / "chart.png").symlink_to("build/chart-3.png")
    said = sender(workspace).send({"path": str(workspace / "chart.png"), "title": 3}, "t1")
    assert "on its way" in said
    found = Outgoing(workspace.parent).look("t1")
    assert found is not None
    assert (found.name, found.size, found.title) == ("chart-3.png", 3, "")


def test_the_same_call_again_hands_nothing_over_twice(workspace: Path) -> None:
    (workspace / "a").write_text("first")
    sender(workspace).send({"path": "a"}, "t1")
    (workspace / "a").write_text("second")
    Outgoing(workspace.parent).reply("t1", None)
    assert sender_with_patience(workspace).send({"path": "a"}, "t1") == "a is in the thread."
    assert [path.name for path in (workspace.parent / "outgoing").iterdir()] == ["t1"]


def sender_with_patience(workspace: Path) -> Sender:
    return Sender(workspace, workspace.parent / "outgoing", 1000, patience=10.0)


def test_a_full_disk_is_told(workspace: Path) -> None:
    (workspace / "a").write_text("x")
    (workspace.parent / "outgoing").write_text("in the way")
    result = sender(workspace).call({"arguments": {"path": "a"}})
    assert result["isError"]
    assert "could not be handed over" in result["content"][0]["text"]


def test_it_speaks_with_the_systems_python_alone() -> None:
    path = Path(__file__).parents[3] / "worklets" / "image" / "flowtools.py"
    lines = ["nonsense", "[1]", '{"id": 2, "method": "other"}', '{"method": "notifications/initialized"}']
    lines.append('{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}')
    done = subprocess.run(
        ["python3", "-IS", str(path), "/nowhere", "10"],
        input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    other, listed = map(json.loads, done.stdout.splitlines())
    assert other["error"]["code"] == -32601
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["send_file"]
