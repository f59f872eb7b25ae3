"""Startup scripts as they run inside a worklet, before the command that follows; without a worklet around them."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from githost import git

from config.slices.repositories import RepositorySettings
from worklets.errors import WorkletStartFailed
from worklets.events import Remark
from worklets.git import Git
from worklets.identity import Identity
from worklets.local import STARTER
from worklets.mirrors import Mirrors
from worklets.profile import Origin, Profile
from worklets.repositories import Repositories
from worklets.startup import Listing, Script, Scripts, Startup
from worklets.wire import Decoder


class Place:
    def __init__(self, tmp_path: Path) -> None:
        self.home, self.work, self.run_dir = tmp_path / "home", tmp_path / "work", tmp_path / "run"
        for directory in (self.home, self.work, self.run_dir):
            directory.mkdir()

    def start(self, name: str, text: str | None = None, seconds: float = 60) -> tuple[list[str], list[dict[str, str]]]:
        """What the command was given, and the lines before it."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "FLOW_KV_TOKEN_FILE": str(self.run_dir / "kv.token")}
        env |= {"FLOW_STARTUP_SCRIPT": text} if text is not None else {}
        show = 'import sys, os; print("FLOW_STARTUP_SCRIPT" in os.environ, sys.argv[1:])'
        command = [sys.executable, "-c", show, "--append-system-prompt=You are.", "--x"]
        done = subprocess.run(
            [sys.executable, "-IS", str(STARTER), f"{seconds}", name, *command],
            cwd=self.work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        *lines, last = done.stdout.splitlines()
        assert last.startswith("False ")
        assert (self.run_dir / "startup.ended").exists()
        return ast.literal_eval(last.removeprefix("False ")), [json.loads(line) for line in lines]

    def log(self) -> str:
        return (self.home / ".flow" / "startup.log").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_script_runs_once_in_the_workspace_and_nobody_hears_of_it(place: Place) -> None:
    given, lines = place.start("setup", "echo out; echo err >&2; echo x >> made")
    assert (given, lines) == (["--append-system-prompt=You are.", "--x"], [])
    assert place.log() == "out\nerr\n"
    assert place.start("setup", "echo x >> made") == (given, [])
    assert (place.work / "made").read_text() == "x\n"


def test_a_script_of_the_repository_runs_from_there(place: Place) -> None:
    script = place.work / ".claude" / "startup" / "setup.sh"
    script.parent.mkdir(parents=True)
    script.write_text("echo $0 $PWD")
    place.start("setup")
    assert place.log() == f".claude/startup/setup.sh {place.work}\n"


def test_a_script_that_fails_is_told_once_and_claude_knows_it_each_time(place: Place) -> None:
    given, (line,) = place.start("setup", "echo no network; exit 3")
    assert line == {"type": "flow_startup", "script": "setup", "failed": "exit status 3", "tail": "no network\n"}
    assert "setup failed: exit status 3." in given[0]
    assert given[0].startswith("--append-system-prompt=You are.")
    assert place.start("setup", "exit 3") == (given, [])
    (event,) = Decoder().feed(json.dumps(line))
    assert event == Remark(
        "The startup script setup failed: exit status 3. Claude goes on without it. "
        "Its output ended with:\n```\nno network\n```"
    )


def test_a_script_without_end_is_ended_with_what_it_started(place: Place) -> None:
    _, (line,) = place.start("setup", "echo begun; sleep 1000 & echo $! > pid; wait", seconds=4.5)
    assert line["failed"] == "it did not end within 4.5 s"
    assert line["tail"] == "begun\n"
    pid, end = int((place.work / "pid").read_text()), time.monotonic() + 60
    while _runs(pid):  # it was killed: when it goes is the machine's affair
        assert time.monotonic() < end
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_server_that_a_script_leaves_running_holds_nothing_up(place: Place) -> None:
    _, lines = place.start("setup", "sleep 600 & echo $! > pid")
    assert lines == []
    pid = int((place.work / "pid").read_text())
    os.kill(pid, 9)  # it ran


def test_a_server_that_prints_goes_on_and_its_log_is_bounded(place: Place) -> None:
    chatty = "while :; do echo GET /; echo x >> beats; done & echo $! > pid"
    _, lines = place.start("setup", chatty)
    pid = int((place.work / "pid").read_text())
    try:
        assert lines == []
        begun, log = (place.work / "beats").stat().st_size, place.home / ".flow" / "startup.log"
        end = time.monotonic() + 120
        while (place.work / "beats").stat().st_size < begun + 400_000 and time.monotonic() < end:
            os.kill(pid, 0)  # it runs
        assert (place.work / "beats").stat().st_size >= begun + 400_000
        assert log.stat().st_size <= 1 << 20
    finally:
        os.kill(pid, 9)


def test_an_endless_output_is_bounded(place: Place) -> None:
    _, (line,) = place.start("setup", "head -c 5000000 /dev/zero | tr '\\0' x; exit 1")
    assert len(place.log()) == 1 << 20
    assert line["tail"] == "x" * 1500


def test_a_script_that_is_missing_is_told(place: Place) -> None:
    _, (line,) = place.start("setup")
    assert line["failed"] == "there is no .claude/startup/setup.sh in the repository"


# ---- which there are


async def test_a_list_of_scripts_ends_in_time_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("echo")
    named = tuple((f"r{number}", f"https://host.example/{number}.git", None) for number in range(3))
    repositories = Repositories(RepositorySettings(repositories=named, scripts=tmp_path))

    class Stuck(Mirrors):
        async def files(self, repository: str, directory: str) -> list[str]:
            if repository != "r0":
                await asyncio.Event().wait()
            return ["seed.sh"]

    stuck = Stuck(tmp_path / "share", Identity.load(tmp_path / "share"))
    listed = await Scripts(tmp_path, 300.0, repositories, stuck, patience=0.2).all()
    assert listed == Listing((Script("setup"), Script("seed", "r0")), unread=2)


async def test_one_repository_that_takes_its_time_hides_no_other(tmp_path: Path) -> None:
    named = tuple((f"r{number}", f"https://host.example/{number}.git", None) for number in range(6))
    repositories = Repositories(RepositorySettings(repositories=named))

    class Slow(Mirrors):
        """The first one waits for all others."""

        def __init__(self, share_dir: Path, identity: Identity) -> None:
            super().__init__(share_dir, identity)
            self.others = asyncio.Semaphore(0)

        async def files(self, repository: str, directory: str) -> list[str]:
            if repository == "r0":
                for _ in range(5):
                    await self.others.acquire()
            self.others.release()
            return ["seed.sh"]

    slow = Slow(tmp_path / "share", Identity.load(tmp_path / "share"))
    listed = await Scripts(None, 300.0, repositories, slow, patience=60).all()
    assert listed == Listing(tuple(Script("seed", f"r{number}") for number in range(6)))


async def test_scripts_come_from_the_administrator_and_from_repositories(tmp_path: Path) -> None:
    repository, scripts = tmp_path / "app", tmp_path / "scripts"
    git("init", "-q", "-b", "main", str(repository))
    for directory in (repository / ".claude" / "startup", scripts):
        directory.mkdir(parents=True)
        (directory / "setup.sh").write_text(f"echo {directory}")
        (directory / "readme.md").write_text("")
    (repository / ".claude" / "startup" / "seed.sh").write_text("echo")
    git("-C", str(repository), "add", ".")
    git("-C", str(repository), "commit", "-q", "-m", "one")
    settings = RepositorySettings(repositories=f"app={repository}", scripts=scripts)
    repositories = Repositories(settings)
    mirrors = Mirrors(
        tmp_path / "share", Identity.load(tmp_path / "share"), Git(os.environ, local=True), resolve=repositories.source
    )
    found = Scripts(scripts, 300.0, repositories, mirrors, patience=60)
    assert await found.all() == Listing((Script("setup"),)), "there is no mirror yet, and no host is asked"
    await mirrors.checkout("app", None, tmp_path / "to", worklet="w")
    assert await found.all() == Listing((Script("setup"), Script("seed", "app"), Script("setup", "app")))

    async def startup(name: str | None, repository: str | None) -> Startup | None:
        origin = Origin("1", "U1", "C1", repository, startup_script=name)
        return (await found.part("w", origin, Profile())).startup

    assert await startup(None, "app") is None
    assert await startup("setup", "app") == Startup("setup", f"echo {scripts}", 300.0)
    assert await startup("seed", "app") == Startup("seed", None, 300.0)
    for wrong, at in (("seed", None), ("../etc/passwd", "app"), ("-x", "app")):
        with pytest.raises(WorkletStartFailed):
            await startup(wrong, at)
    await asyncio.to_thread((scripts / "setup.sh").write_bytes, b"x" * 70_000)
    with pytest.raises(WorkletStartFailed, match="64 KiB"):
        await startup("setup", None)
