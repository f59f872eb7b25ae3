"""A clone as an archive for the engine: all of it, following nothing, and no more than a worklet's disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from pathlib import Path
from typing import IO

import pytest

from worklets.treearchive import TooMuchToPack, pack_tree


def packed(source: Path, into: IO[bytes], **bounds: int) -> dict[str, tarfile.TarInfo]:
    pack_tree(source, into, 1000, **bounds)
    with tarfile.open(fileobj=into) as tar:
        return {info.name: info for info in tar}


def test_all_of_it_is_the_agents_and_no_link_is_followed(tmp_path: Path) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    (source / "a" / "b").mkdir(parents=True)
    outside.write_text("secret")
    (source / "a" / "file").write_text("text")
    (source / "a" / "file").chmod(0o4755)
    os.link(source / "a" / "file", source / "a" / "hard")
    (source / "link").symlink_to(outside)
    (source / "folder").symlink_to(tmp_path)
    os.mkfifo(source / "pipe")
    with tempfile.TemporaryFile() as into:
        found = packed(source, into)
        assert set(found) == {
            "workspace", "workspace/a", "workspace/a/b", "workspace/a/file", "workspace/a/hard", "workspace/link",
            "workspace/folder",
        }  # fmt: skip
        assert {(info.uid, info.gid, info.uname) for info in found.values()} == {(1000, 1000, "")}
        assert found["workspace/link"].linkname == str(outside)
        assert sum(found[f"workspace/a/{name}"].islnk() for name in ("file", "hard")) == 1
        into.seek(0)
        assert b"secret" not in into.read()


def test_it_is_bounded_in_bytes_and_entries(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"{number}").write_bytes(b"x" * 1_000)
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 37)  # a few bytes of a disk, 128 GiB of an archive
    with tempfile.TemporaryFile() as into:
        with pytest.raises(TooMuchToPack, match=r"take more than 1 MiB, which is the disk of a worklet\.") as told:
            pack_tree(source, into, 1000, most_bytes=1 << 20)
        assert "raise FLOW_WORKLET_DISK" in told.value.suggestion
        assert os.fstat(into.fileno()).st_size < 1 << 20, "told before it is written"
    with tempfile.TemporaryFile() as into, pytest.raises(TooMuchToPack, match="64 GiB, which is all that") as told:
        pack_tree(source, into, 1000)
    assert "set FLOW_WORKLET_DISK" in told.value.suggestion
    (source / "sparse").unlink()
    with tempfile.TemporaryFile() as into:
        assert len(packed(source, into, most_entries=21)) == 21
    with tempfile.TemporaryFile() as into, pytest.raises(TooMuchToPack, match="more than 20 files") as told:
        pack_tree(source, into, 1000, most_entries=20)
    assert "DISK" not in told.value.suggestion


def test_many_names_are_not_kept_in_memory_before_they_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5_000):
        (source / f"{number}").touch()
    tracemalloc.start()
    try:
        with tempfile.TemporaryFile() as into, pytest.raises(TooMuchToPack, match="more than 10 files"):
            pack_tree(source, into, 1000, most_entries=10)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_a_path_that_cannot_be_opened_is_told_as_such(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    above = os.open(source, os.O_RDONLY)
    try:
        for _ in range(17):
            os.mkdir("d" * 250, dir_fd=above)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=above)
            os.close(above)
            above = below
        with tempfile.TemporaryFile() as into, pytest.raises(TooMuchToPack, match="a path that is longer"):
            pack_tree(source, into, 1000)
    finally:
        os.close(above)
        subprocess.run(["rm", "-rf", str(source)], check=True, timeout=60)


def test_a_tree_deeper_than_the_stack_is_packed(tmp_path: Path) -> None:
    source, depth = tmp_path / "s", sys.getrecursionlimit() + 200
    source.mkdir()
    above = os.open(source, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=above)
            below = os.open("d", os.O_RDONLY, dir_fd=above)
            os.close(above)
            above = below
        with tempfile.TemporaryFile() as into:
            assert len(packed(source, into)) == depth + 1
    finally:
        os.close(above)
        # What clears temporary directories is recursive.
        subprocess.run(["rm", "-rf", str(source)], check=True, timeout=60)
