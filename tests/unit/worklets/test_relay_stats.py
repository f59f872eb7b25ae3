"""What the relay reads of its own control group, in the kernel's two layouts, and of processes where it has none."""

import os
import subprocess
import sys
from pathlib import Path

from waiting import until

from worklets.relay.forward import Traffic
from worklets.relay.stats import Meter, used


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


VERSION_1 = {
    "cpuacct/cpuacct.usage": "2500000000\n",
    "memory/memory.usage_in_bytes": "300000000\n",
    "memory/memory.limit_in_bytes": "2147483648\n",
    "memory/memory.stat": "cache 5\ninactive_file 1\ntotal_inactive_file 100000000\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "pids/pids.current": "17\n",
    "pids/pids.max": "512\n",
}
VERSION_2 = {
    "cgroup.controllers": "cpu memory pids\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    "memory.current": "300000000\n",
    "memory.max": "2147483648\n",
    "memory.stat": "anon 7\ninactive_file 100000000\n",
    "memory.events": "low 0\noom 4\noom_kill 3\n",
    "pids.current": "17\n",
    "pids.max": "512\n",
}
READ = {"cpu": 2.5, "memory": 200_000_000, "memory_limit": 2 << 30, "pids": 17, "pids_limit": 512, "oom_kills": 3}


def test_both_versions_of_control_groups_are_read_alike(tmp_path: Path) -> None:
    assert used(lay(tmp_path / "1", VERSION_1)) == READ
    assert used(lay(tmp_path / "2", VERSION_2)) == READ


def test_no_limit_is_none_in_both(tmp_path: Path) -> None:
    first = lay(
        tmp_path / "1", {**VERSION_1, "memory/memory.limit_in_bytes": "9223372036854771712\n", "pids/pids.max": "max"}
    )
    second = lay(tmp_path / "2", {**VERSION_2, "memory.max": "max\n", "pids.max": "max\n"})
    for found in (used(first), used(second)):
        assert found == READ | {"memory_limit": None, "pids_limit": None}


def test_processes_are_added_up_where_there_is_no_group(tmp_path: Path) -> None:
    """As in a container whose OCI runtime hides the files."""
    found = used(tmp_path)
    assert found["memory"] > 1 << 20
    assert found["pids"] >= 1
    assert found["memory_limit"] is found["pids_limit"] is None


async def test_the_tree_of_processes_holds_children_of_children() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(60 << 20); input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as parent:
        try:
            await until(lambda: used(None, root_pid=parent.pid)["memory"] > 60 << 20)
            assert used(None, root_pid=parent.pid)["pids"] == 2
            assert used(None, root_pid=os.getpid())["pids"] >= 3
        finally:
            assert parent.stdin is not None
            parent.stdin.close()


def test_names_of_processes_may_hold_anything(tmp_path: Path) -> None:
    """A stat file whose command looks like other fields: proc(5) puts it in brackets, unescaped."""
    fields = " ".join(
        ["S", "7", *["0"] * 9, "100", "50", "25", "25", "20", "0", "4", "0", "1", "0", "1000", *["0"] * 20]
    )
    proc = lay(tmp_path, {"12/stat": f"12 (a) R 1 ) (b) {fields}", "7/stat": "7 (gone", "x": "", "13/stat": ""})
    found = used(None, proc, 12)
    assert found["cpu"] == 200 / os.sysconf("SC_CLK_TCK")
    assert found["pids"] == 4
    assert found["memory"] == 1000 * os.sysconf("SC_PAGE_SIZE")


def test_a_meter_adds_what_was_carried_and_what_stands_on_disk() -> None:
    traffic = Traffic()
    traffic.count_sent(3)
    traffic.count_received(5)
    read = Meter(traffic, shared=True, disk_limit=10).read()
    assert (read["sent"], read["received"], read["disk"], read["disk_limit"]) == (3, 5, None, 10)
