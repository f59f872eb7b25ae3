"""What the relay's adding up takes for used: files, however empty, and nothing that is hidden from it."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from worklets.relay import disk
from worklets.relay.disk import counter, measure

AGENT = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
#: As the agent's own user, whom the kernel refuses what it has taken its own rights from.
PROBE = """
import asyncio, os, sys
from disk import measure
os.makedirs("run/hidden")
for number in range(3000):
    os.makedirs(f"run/many/{number:0100}", 0o300)
with open("run/hidden/much", "wb") as much:
    much.write(b"x" * (3 << 20))
for mode in (0o300, 0o600, 0o700):
    os.chmod("run/hidden", mode)
    print(asyncio.run(measure(["run"], sys.argv[1:], 60)) is not None)
    if mode == 0o600:
        for number in range(3000):
            os.rmdir(f"run/many/{number:0100}")
"""


async def test_empty_files_count_as_well(tmp_path: Path) -> None:
    """A disk has room for so many, and no other worklet starts when none can be made."""
    used = await measure([str(_empty_files(tmp_path / "0"))], patience=60)
    assert used is not None
    assert used >= 2000 * 4096
    if os.statvfs(tmp_path).f_files:
        assert any(_counted(tmp_path / f"{time}") > 1000 * 4096 for time in range(1, 6)), "others may delete meanwhile"


def _empty_files(place: Path) -> Path:
    place.mkdir()
    for number in range(2000):
        (place / f"{number}").touch()
    return place


def _counted(place: Path) -> int:
    """By how much the whole disk's count goes up."""
    before = counter([str(place.parent)])
    return counter([str(_empty_files(place))]) - before


@pytest.fixture
def place() -> Iterator[Path]:
    """One that anybody may write, outside pytest's own directory, which is closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        shutil.copy(disk.__file__, Path(directory) / "disk.py")
        yield Path(directory)


@pytest.mark.parametrize(("volumes", "told"), [((), "True True True"), (("/tmp",), "False False True")])
def test_a_directory_that_cannot_be_read_counts_as_not_measured(
    place: Path, volumes: tuple[str, ...], told: str
) -> None:
    """Where the workspace is a disk of its own: nobody but who hides something has one beside it."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", PROBE, *volumes], cwd=place, env={"PYTHONPATH": str(place)}, capture_output=True,
        text=True, check=False, timeout=120, **AGENT,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (told.split(), "")


async def test_a_file_counts_once_and_no_path_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every, mine = disk._open_files, f"/proc/{os.getpid()}/"  # the machine's others have deleted files open too
    monkeypatch.setattr(disk, "_open_files", lambda: filter(lambda path: path.startswith(mine), every()))
    place = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(30):
            os.mkdir("x" * 200, dir_fd=place)
            below = os.open("x" * 200, os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = below
        much = os.open("much", os.O_WRONLY | os.O_CREAT, dir_fd=place)
        os.write(much, b"x" * (3 << 20))
        os.fsync(much)  # blocks are counted when they are written
        os.close(much)
        for number in range(10):
            os.link("much", f"{number}", src_dir_fd=place, dst_dir_fd=place)
    finally:
        os.close(place)
    used = await measure([str(tmp_path)], patience=60)
    assert used is not None
    assert 3 << 20 <= used < 12 << 20, "not 33 MB; a file system may keep more for a file than was written"


async def test_what_lies_deeper_than_anybody_goes_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * (disk._DEEPEST - 2))).mkdir(parents=True)
    gc.collect()  # what earlier tests left open goes now, and not in between
    handles = len(os.listdir("/proc/self/fd"))
    assert await measure([str(tmp_path)], patience=60) is not None
    (tmp_path / "/".join(["d"] * (disk._DEEPEST + 1))).mkdir(parents=True)
    assert await measure([str(tmp_path)], patience=60) is None
    assert len(os.listdir("/proc/self/fd")) == handles


def test_no_process_is_started_to_measure(tmp_path: Path) -> None:
    """An agent of the same user can stop it between its fork and its exec, and whoever started it then waits."""
    told = """
import asyncio, sys
from disk import measure
def refuse(event, _arguments):
    assert event not in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system"), event
sys.addaudithook(refuse)
print(asyncio.run(measure(["."], (), 60)) is not None)
"""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", told], cwd=tmp_path, env={"PYTHONPATH": str(Path(disk.__file__).parent)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("True", "")
