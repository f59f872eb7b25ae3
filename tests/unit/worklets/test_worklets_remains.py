"""What is left of worklets: told by name, with when it was used; and what killed programs leave beside them."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from worklets import rundir
from worklets.errors import WorkletError
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.runtime import WorkletSpec
from worklets.sweep import sweep_temporary


def test_the_last_use_of_a_directory_is_its_newest_change(tmp_path: Path) -> None:
    run = rundir.prepare(tmp_path, "used", None)
    rundir.prepare(tmp_path, "older", None)
    old = time.time() - 86_400 * 40
    for path in (run.parent, run, tmp_path / "worklets" / "older" / "run"):
        os.utime(path, (old, old))
    os.utime(tmp_path / "worklets" / "older", (old - 100, old - 100))
    run.joinpath("relay.sock").touch()  # as at a start
    found = rundir.last_used(tmp_path)
    assert set(found) == {"used", "older"}
    assert datetime.now(UTC) - found["used"] < timedelta(minutes=5)
    assert abs(found["older"].timestamp() - old) < 1
    assert rundir.last_used(tmp_path / "nothing") == {}


def test_only_old_directories_of_ours_are_swept(tmp_path: Path) -> None:
    old = time.time() - 86_400 * 2
    for name in ("flow-clone-old", "flow-clone-new", "flow-files-old", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        if not name.endswith("new"):
            os.utime(tmp_path / name, (old, old))
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "flow-clone-link").symlink_to(target)
    os.utime(tmp_path / "flow-clone-link", (old, old), follow_symlinks=False)
    (tmp_path / "flow-clone-file").touch()
    os.utime(tmp_path / "flow-clone-file", (old, old))
    sweep_temporary(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"flow-clone-new", "other", "target", "flow-clone-link", "flow-clone-file"}


def test_what_an_agent_made_deeper_than_python_goes_is_removed(tmp_path: Path) -> None:
    """Else its thread could not start again, and its workspace would stay for ever."""
    run = rundir.prepare(tmp_path, "deep", None)
    for gone in (run / ".gone-1", run / "kept"):
        gone.mkdir()
        _dig(gone, 3000)
    rundir.write_spec(run, rundir.told(WorkletSpec("deep", (), "t"), cwd="/", home="/", env={}), agent=None)
    assert sorted(path.name for path in run.iterdir()) == ["kept", "spec.json"]
    rundir.remove(tmp_path, "deep")
    assert not run.parent.exists()
    rundir.remove(tmp_path, "deep")


def _dig(top: Path, depth: int) -> None:
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_a_link_in_the_place_of_a_directory_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    run = rundir.prepare(tmp_path, "links", None)
    (run / ".gone-1").symlink_to(tmp_path / "outside")
    (run / "inner").symlink_to(tmp_path / "outside")
    rundir.forget_journals(run)
    assert not (run / ".gone-1").is_symlink()
    rundir.remove(tmp_path, "links")
    assert (tmp_path / "outside" / "file").exists()


@pytest.mark.parametrize("how", ["a link", "deep"])
async def test_a_local_volume_gives_way_to_a_new_one_and_nothing_beside_it_does(tmp_path: Path, how: str) -> None:
    """What Claude left in its place: a link to a place of the machine, or more than Python can go down."""
    share, outside, source = tmp_path / "share", tmp_path / "outside", tmp_path / "source"
    for directory in (outside / "below", source):
        directory.mkdir(parents=True)
        (directory / "file").write_text("kept")
    rundir.prepare(share, "w", None)
    work = share / "worklets" / "w" / "work"
    if how == "a link":
        work.symlink_to(outside, target_is_directory=True)
    else:
        work.mkdir()
        (work / "link").symlink_to(outside, target_is_directory=True)
        _dig(work, 1500)
    runtime = LocalRuntime(share_dir=share, identity=Identity.load(share), claude=Path("/bin/true"))
    try:
        await runtime.put("w", source)
        assert not work.is_symlink()
        assert [path.name for path in work.rglob("*")] == ["workspace", "file"]
        await runtime.copy("w", "fork")
        (share / "worklets" / "fork" / "work" / "link").symlink_to(outside)
        for name in ("w", "fork"):
            await runtime.remove_volume(name)
        assert not list((share / "worklets").iterdir())
        rundir.prepare(share, "w", None)
        work.mkdir()
        _dig(work, 1500)
        with pytest.raises(WorkletError, match="could not be copied"):
            await runtime.copy("w", "too-deep")
    finally:
        for name in ("w", "too-deep"):  # pytest could not
            await runtime.remove_volume(name)
        await runtime.close()
    assert (outside / "below" / "file").read_text() == "kept"
