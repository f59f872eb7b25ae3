"""The filter that the relay sets, in a process of its own: it cannot be taken off again."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from worklets.relay import seccomp

RELAY = Path(seccomp.__file__).parent
PROBE = """
import ctypes, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == "bound":
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
from seccomp import holds, restrict
restrict()
assert holds()
def opened(family, kind=socket.SOCK_STREAM):
    try:
        socket.socket(family, kind).close()
    except OSError as error:
        return error.errno
    return 0
print(opened(socket.AF_UNIX), opened(socket.AF_INET), opened(socket.AF_NETLINK, socket.SOCK_RAW))
print(opened(socket.AF_VSOCK))
socket.socketpair()
libc.syscall(425, 1, 0)
print(ctypes.get_errno())
libc.syscall(424, 0, 0, 0, 0)
print(ctypes.get_errno())
"""


def probe(how: str) -> list[str]:
    command = [sys.executable, "-c", PROBE, how]
    done = subprocess.run(
        command, cwd=RELAY, env={"PYTHONPATH": str(RELAY)}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this processor")
def test_it_leaves_the_usual_sockets_and_nothing_else() -> None:
    assert probe("bound") == ["0", "0", "0", "97", "38", "38"]


AGENT = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
PYTHON = "/usr/bin/python3"  # anybody may start it


@pytest.fixture
def relay() -> Iterator[Path]:
    """A copy that anybody may read, outside pytest's own directory, which is closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        shutil.copytree(RELAY, Path(directory) / "relay")
        yield Path(directory) / "relay"


def test_where_it_cannot_be_set_that_is_said(relay: Path) -> None:
    """Programs may still get rights here."""
    said = subprocess.run([PYTHON, relay / "seccomp.py"], capture_output=True, text=True, check=False, **AGENT)
    assert (said.returncode, said.stderr) == (1, "no-new-privileges is off\n")


BOUND = """
import ctypes, os, runpy, sys
assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0
"""


def test_a_probe_tells_whether_it_holds() -> None:
    run = f"{BOUND}\nrunpy.run_path({str(RELAY / 'seccomp.py')!r}, run_name='__main__')"
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


def test_a_processor_without_a_filter_is_named() -> None:
    run = f"{BOUND}\nsys.path.insert(0, {str(RELAY)!r})\nimport seccomp\nseccomp._CALLS.clear()\nseccomp.restrict()"
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert f"NoFilter: there is none for this processor ({platform.machine()})" in said.stderr


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this processor")
def test_what_the_kernel_refuses_is_said_with_its_reason() -> None:
    """A program that is no filter. A kernel that does not know the flag is asked again without."""
    run = (
        f"{BOUND}\nsys.path.insert(0, {str(RELAY)!r})\nimport seccomp\n"
        "flags = []\nreal = seccomp._set\n"
        "def noted(number, given, code):\n    flags.append(given)\n    return real(number, given, code)\n"
        "seccomp._set = noted\nseccomp.program = lambda calls: b'\\xff' * 8\n"
        "try:\n    seccomp.restrict()\nexcept seccomp.NoFilter as why:\n    print(flags, why)"
    )
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert said.stdout == "[4, 0] the kernel refuses it: Invalid argument\n", said.stderr


def test_claude_is_not_started_without_it(relay: Path) -> None:
    """The relay says why in one sentence, which Flow shows, and nothing of Python."""
    run_dir = relay.parent / "run"
    run_dir.mkdir()
    run_dir.chmod(0o777)
    started = run_dir / "started"
    spec = {
        "command": ["/usr/bin/touch", str(started)], "env": {}, "token": "t", "cwd": str(run_dir),
        "home": str(run_dir), "sealed": True,
    }  # fmt: skip
    (run_dir / "spec.json").write_text(json.dumps(spec))
    command = [PYTHON, "-I", str(relay / "relay.py"), str(run_dir)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **AGENT)
    assert said.returncode == 1
    assert said.stderr == (
        "the filter of system calls cannot be set (no-new-privileges is off). An administrator finds more with "
        "`flow doctor`\n"
    )
    assert not started.exists()


def test_claude_does_not_wait_for_ctypes(tmp_path: Path) -> None:
    """It takes longer to import than all that it is for."""
    spec = {
        "command": ["/bin/true"], "env": {}, "token": "t", "cwd": str(tmp_path), "home": str(tmp_path), "sealed": True,
    }  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    run = (
        f"{BOUND}\nfor name in [one for one in sys.modules if 'ctypes' in one]: del sys.modules[name]\n"
        "class Started(Exception): pass\n"
        "def started(event, _):\n    if event == 'subprocess.Popen': raise Started('ctypes' in sys.modules)\n"
        f"sys.addaudithook(started)\nsys.argv = ['relay.py', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(RELAY / 'relay.py')!r}, run_name='__main__')"
    )
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False, timeout=60)
    assert said.stderr.strip().endswith("Started: False"), said.stderr


@pytest.mark.parametrize("machine", sorted(seccomp._CALLS))
def test_every_leap_ends_inside_the_program(machine: str) -> None:
    """Also those for processors that this machine does not have."""
    code = seccomp.program(seccomp._CALLS[machine])
    size = len(code) // 8
    for at, (op, so, not_so, _) in enumerate(struct.iter_unpack("=HBBI", code)):
        if op == 0x15:
            assert at + 1 + max(so, not_so) < size
    for arch, number, socketcall, prlimit, by_argument in seccomp._CALLS[machine]:
        for argument, calls in enumerate(by_argument):
            for call in calls:
                assert _runs(code, arch, call, *[0] * argument, 1) == 0x00050001
                assert _runs(code, arch, call, *[0] * argument, 2) == 0x7FFF0000
                assert _runs(code, arch, call, *[0] * argument, 0, 1, 1) == 0x7FFF0000, "the other arguments are free"
        for pid, new, refused in ((0, 1, 0), (0, 1 << 32, 0), (2, 0, 0), (1, 1, 1), (2, 1, 1), (2, 1 << 32, 1)):
            assert _runs(code, arch, prlimit, pid, 7, new) == (0x00050001 if refused else 0x7FFF0000), (pid, new)
        assert _runs(code, arch, number, socket.AF_INET) == 0x7FFF0000
        assert _runs(code, arch, number, 40) == 0x00050061
        assert _runs(code, arch, number + 1, 40) == 0x7FFF0000
        for call, of_a_user in zip(by_argument[1], (2, 3), strict=True):
            assert _runs(code, arch, call, of_a_user, 0) == 0x00050001, (
                "all processes of a user have the relay among them"
            )
        assert _runs(code, arch, 424, 9) == 0x00050026, "it does not say whom it is for"
        assert _runs(code, arch, 425, 1) == 0x00050026
        if socketcall is not None:
            assert _runs(code, arch, socketcall, 1) == 0x00050001
    assert _runs(code, 1, 425, 40) == 0x7FFF0000, "a kind of call that is not known is the engine's to judge"


def _runs(code: bytes, arch: int, number: int, *arguments: int) -> int:
    """What the kernel would answer: classic BPF, as far as the filter uses it."""
    data, held, at = {0: number, 4: arch}, 0, 0
    for n, one in enumerate(arguments):
        data |= {16 + 8 * n: one & 0xFFFFFFFF, 20 + 8 * n: one >> 32}
    program = list(struct.iter_unpack("=HBBI", code))
    while True:
        op, so, not_so, k = program[at]
        at += 1
        match op:
            case 0x20:
                held = data[k]
            case 0x54:
                held &= k
            case 0x15:
                at += so if held == k else not_so
            case 0x06:
                return k
