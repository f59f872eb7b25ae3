"""A session's clone of a large repository: the first one, a second one from the shared mirror, and beside plain git.

The repository is generated: a gigabyte of history that does not compress, and a working tree of a tenth of it. The
archive is what the engine then unpacks into the session's volume.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row, say
from worklets.git import Git
from worklets.identity import Identity
from worklets.mirrors import Mirrors
from worklets.treesize import size_of

_BYTES, _COMMITS, _FILES = 1_000_000_000, 200, 10  # of the history; files that each commit changes
_TREE = 20  # commits until a file's name comes round again: so many times _FILES lie in the working tree


async def measure(quick: bool) -> list[Row]:
    size = _BYTES // (50 if quick else 1)
    with tempfile.TemporaryDirectory(prefix="flow-bench-repository-") as name:
        place = Path(name)
        say(f"  generating {size // 1_000_000} MB of history")
        await asyncio.to_thread(generate, place / "origin", size)
        return await _rows(place, size)


async def _rows(place: Path, size: int) -> list[Row]:
    share, url = place / "share", f"file://{place / 'origin'}"
    mirrors = Mirrors(share, Identity.load(share), Git(dict(os.environ), local=True), fresh=3600.0)
    stale = Mirrors(share, Identity.load(share), Git(dict(os.environ), local=True), fresh=0.0)

    async def session(number: int, of: Mirrors) -> float:
        began = time.perf_counter()
        await of.checkout(url, None, place / f"clone{number}", worklet=f"w{number}", work_branch=f"flow/bench-{number}")
        return time.perf_counter() - began

    first = await session(0, mirrors)
    second = min([await session(number, mirrors) for number in range(1, 4)])
    looked = min([await session(number, stale) for number in range(4, 7)])
    plain = await asyncio.to_thread(_plain, url, place / "plain")
    packed, whole = (
        await asyncio.to_thread(_packed, place / "clone1"),
        await asyncio.to_thread(_packed, place / "plain"),
    )
    own, all_ = size_of(place / "clone1"), size_of(place / "plain")
    return [
        Row(f"first session on a repository of {size // 1_000_000} MB", f"{first:.1f} s = {first / plain:.2f}×",
            f"a plain `git clone`: {plain:.1f} s"),
        Row("second session, from the mirror", f"{second * 1000:.0f} ms = {plain / second:.0f} times as quick",
            f"the same; {own / 1e6:.0f} MB beside {all_ / 1e6:.0f}"),
        Row("the same, asking the host what is new", f"{looked * 1000:.0f} ms = {plain / looked:.0f} times as quick"),
        Row("archive for the volume", f"{packed * 1000:.0f} ms", f"of a plain clone: {whole * 1000:.0f} ms"),
    ]  # fmt: skip


def _plain(url: str, to: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["git", "clone", "-q", url, str(to)], check=True)
    return time.perf_counter() - began


def _packed(clone: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["tar", "-cf", str(clone.with_suffix(".tar")), "-C", str(clone), "."], check=True)
    return time.perf_counter() - began


def generate(root: Path, size: int) -> None:
    """A repository of so many bytes. `core.compression=0`, since random bytes cannot be made smaller."""
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["git", "init", "-q", "-b", "main", str(root)], **quiet)  # type: ignore[call-overload]
    subprocess.run(["git", "-C", str(root), "config", "core.compression", "0"], **quiet)  # type: ignore[call-overload]
    command = ["git", "-C", str(root), "fast-import", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as importing:
        assert importing.stdin is not None
        for number in range(_COMMITS):
            who = f"Bench <bench@example.org> {1_700_000_000 + number} +0000"
            parent = f"from :{number}\n" if number else ""
            head = f"commit refs/heads/main\nmark :{number + 1}\ncommitter {who}\ndata 0\n{parent}"
            importing.stdin.write(head.encode())
            for file in range(_FILES):
                data = os.urandom(size // _COMMITS // _FILES)
                importing.stdin.write(f"M 100644 inline d{file}/f{number % _TREE}.bin\ndata {len(data)}\n".encode())
                importing.stdin.write(data + b"\n")
    if importing.returncode:
        raise RuntimeError("git fast-import failed")
    shutil.rmtree(root / ".git" / "hooks", ignore_errors=True)
