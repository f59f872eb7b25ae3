"""What is told of memory and processes that ran out, from a control group's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worklets.events import AgentEvent, Remark
from worklets.relay.scarcity import Scarcity
from worklets.relay.stats import used
from worklets.wire import Decoder


class Group:
    def __init__(self, root: Path, version: int) -> None:
        self.root, self.version = root, version
        self.now = 1000.0
        self.watch = Scarcity(used, root, lambda: self.now)

    def write(self, *, oom: int, refused: int) -> None:
        if self.version == 1:
            files = {
                "cpuacct/cpuacct.usage": "1000",
                "memory/memory.usage_in_bytes": "4096",
                "memory/memory.limit_in_bytes": str(2 << 30),
                "memory/memory.stat": "total_inactive_file 0",
                "memory/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {oom}",
                "pids/pids.current": "5",
                "pids/pids.max": "512",
                "pids/pids.events": f"max {refused}",
            }
        else:
            files = {
                "cgroup.controllers": "cpu memory pids",
                "cpu.stat": "usage_usec 1000",
                "memory.current": "4096",
                "memory.max": str(2 << 30),
                "memory.stat": "inactive_file 0",
                "memory.events": f"low 0\noom 7\noom_kill {oom}",
                "pids.current": "5",
                "pids.max": "512",
                "pids.events": f"max {refused}",
            }
        for name, text in files.items():
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text(f"{text}\n")

    def told(self, *, oom: int, refused: int) -> list[str]:
        self.write(oom=oom, refused=refused)
        self.now += 2
        return [line["what"] for line in self.watch.look()]


@pytest.mark.parametrize("version", [1, 2])
def test_each_is_told_once_for_a_while(tmp_path: Path, version: int) -> None:
    group = Group(tmp_path, version)
    assert group.told(oom=3, refused=9) == [], "what was before is not news"
    assert group.told(oom=3, refused=10) == ["processes"]
    assert group.told(oom=4, refused=500) == ["memory"]
    assert group.told(oom=5, refused=9000) == []
    group.now += 600
    assert group.told(oom=5, refused=9000) == []
    assert group.told(oom=6, refused=9001) == ["memory", "processes"]
    assert group.watch.look() == []


def test_where_there_is_nothing_to_read_nothing_is_told(tmp_path: Path) -> None:
    assert Scarcity(used, tmp_path).look() == []
    (tmp_path / "pids.events").write_text("max many\n")
    assert Scarcity(used, tmp_path).look() == []


def test_it_becomes_words_for_people() -> None:
    def said(**line: object) -> list[AgentEvent]:
        return Decoder().feed(json.dumps(line))

    (memory,) = said(type="relay_scarce", what="memory", limit=2 << 30)
    assert isinstance(memory, Remark)
    assert "its memory is full (2 GiB)" in memory.text
    (processes,) = said(type="relay_scarce", what="processes", limit=512)
    assert isinstance(processes, Remark)
    assert processes.text.startswith("All 512 processes of this thread's workspace are taken")
    for forged in ("many", None, -1, 10**80, [], {}):
        assert said(type="relay_scarce", what="processes", limit=forged) == []
    (dropped,) = said(type="relay_line_too_long")
    assert isinstance(dropped, Remark)
