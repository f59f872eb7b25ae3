"""Worklets as plain child processes: a demo without Docker. They see the whole machine as Flow's user does.

A process outlives Flow, as a container does: it is started through a shell that leaves at once, so it is nobody's
child, and found again by its pid file. Each process carries `WORKLET_ID` in its environment, by which the
stragglers of a worklet (a daemonised tool, say) are found at the end.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import json
import os
import shutil
import signal
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from worklets import rundir
from worklets.errors import RuntimeUnavailable, WorkletError, WorkletStartFailed
from worklets.files import OUTGOING, Outgoing, place
from worklets.identity import Identity
from worklets.localwatch import hand_on, last_lines, watch
from worklets.news import Tell
from worklets.runtime import Worklet, WorkletSpec

T = TypeVar("T")

RELAY = Path(__file__).parent / "relay" / "relay.py"
SENDER = Path(__file__).parent / "image" / "flowtools.py"
STARTER = Path(__file__).parent / "image" / "startup.py"
GUIDE = Path(__file__).parent / "image" / "kvstore.md"

#: Prints the process's id and goes; `setsid` does not fork there, so the id stays right.
_LAUNCH = 'cd "$1" && log=$2 && shift 2 && { setsid "$@" </dev/null >>"$log" 2>&1 & } && echo $!'
_PATH = "/usr/local/bin:/usr/bin:/bin"
_FOLLOW_SECONDS = 0.3  # between two looks at a log

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Pid:
    """A process: its id, and the clock ticks since boot when it started, since ids come round again (proc(5))."""

    pid: int
    started: int
    boot: str


class LocalRuntime:
    """See `worklets.runtime.Runtime`. `claude` is the CLI's binary, by default the one in the SDK's wheel."""

    kind = "local"
    isolated = False

    def __init__(
        self,
        *,
        share_dir: Path,
        identity: Identity,
        claude: Path | None = None,
        command: tuple[str, ...] | None = None,
    ) -> None:
        self._share_dir = share_dir.resolve()
        self._identity = identity
        self._claude = claude or bundled_claude()
        self._command = command or (sys.executable, "-I", str(RELAY), ".")
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="local-worklet")
        log.warning("the local runtime isolates nothing: Claude's commands run as this user, on this machine")

    async def check(self) -> None:
        if sys.platform != "linux" or not shutil.which("setsid"):
            raise RuntimeUnavailable(
                "The local runtime needs Linux with setsid.", suggestion="Set FLOW_RUNTIME=docker."
            )
        if not self._claude.is_file():
            raise RuntimeUnavailable(
                f"{self._claude} is missing.", suggestion="Install the claude-agent-sdk wheel again."
            )

    async def fingerprint(self) -> str:
        return json.dumps([str(self._claude), *self._command])

    async def start(self, spec: WorkletSpec) -> Worklet:
        return await self._run(lambda: self._launch(spec))

    @property
    def least_memory(self) -> int:
        return 0

    async def resize(self, name: str, *, memory: int | None, cpus: float | None, pids: int | None) -> bool:  # noqa: ARG002
        return True  # nothing limits a plain process

    async def find(self, name: str) -> Worklet | None:
        return await self._run(lambda: self._found(name))

    async def list(self) -> list[Worklet]:
        return await self._run(lambda: [w for name in self._names("pid.json") if (w := self._found(name))])

    async def reaches(self) -> bool:
        return True

    async def remove(self, name: str, grace: float = 5.0) -> str | None:
        return await self._run(lambda: self._end(name, grace))

    async def put(self, name: str, source: Path) -> None:
        """Into a new volume, which counts when it is full; one that stands there goes."""

        def copy() -> None:
            work = self._dir(name) / "work"
            rundir.prepare(self._share_dir, name, None)
            try:
                rundir.begin_filling(self._share_dir, name)
                rundir.discard(work)
                shutil.copytree(source, work / "workspace", symlinks=True)
                rundir.end_filling(self._share_dir, name)
            except (OSError, shutil.Error, RecursionError) as e:
                raise WorkletError(f"The workspace could not be filled: {e}.", suggestion="Check the disk.") from e

        await self._run(copy)

    def mirror_at(self, objects: Path) -> str:
        return str(objects)

    async def taken(self, name: str, paths: Sequence[str]) -> builtins.set[str]:
        workspace = self._dir(name) / "work" / "workspace"
        return await self._run(lambda: {path for path in paths if os.path.lexists(workspace / path)})

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        workspace = self._dir(name) / "work" / "workspace"
        try:
            await self._run(lambda: place(workspace, files))
        except OSError as e:
            raise WorkletError(
                f"The files could not be put into the workspace: {e.strerror or e}.", suggestion="Check the disk."
            ) from e

    def sender(self, name: str, limit: int, *, previews: bool = False) -> tuple[str, ...]:  # noqa: ARG002
        """Without previews: inside is this machine, whose other servers are nobody's business."""
        outgoing = self._dir(name) / "run" / OUTGOING
        return (sys.executable, "-IS", str(SENDER), str(outgoing), str(limit))

    def starter(self) -> tuple[str, ...]:
        return (sys.executable, "-IS", str(STARTER))

    def outgoing(self, name: str) -> Outgoing:
        return Outgoing(rundir.worklet_dir(self._share_dir, name) / "run")

    async def left(self, name: str, file: str) -> bool:
        return await asyncio.to_thread(os.path.lexists, rundir.worklet_dir(self._share_dir, name) / "run" / file)

    async def gather(self, name: str) -> None:
        """It is there."""

    async def copy(self, source: str, name: str) -> None:
        def copy() -> None:
            work = self._dir(name) / "work"
            if work.is_dir() and not rundir.is_half_filled(self._share_dir, name):
                return
            rundir.prepare(self._share_dir, name, None)
            try:
                rundir.begin_filling(self._share_dir, name)
                rundir.discard(work)
                shutil.copytree(self._dir(source) / "work", work, symlinks=True, ignore=_special)
                rundir.end_filling(self._share_dir, name)
            except (OSError, shutil.Error, RecursionError) as e:
                raise WorkletError(f"The workspace could not be copied: {e}.", suggestion="Check the disk.") from e

        await self._run(copy)

    async def volumes(self) -> builtins.list[str]:
        return await self._run(lambda: self._names("work"))

    async def has_volume(self, name: str) -> bool:
        def has() -> bool:
            return (self._dir(name) / "work").is_dir() and not rundir.is_half_filled(self._share_dir, name)

        return await self._run(has)

    async def remove_volume(self, name: str) -> None:
        await self._run(lambda: rundir.remove(self._share_dir, name))

    async def sweep(self, older: float) -> builtins.list[str]:  # noqa: ARG002
        return []  # it makes nothing

    async def logs(self, name: str, lines: int = 100) -> str:
        return await self._run(lambda: self._tail(name, lines))

    async def follow(self, name: str, lines: int, hand: Callable[[bytes], None]) -> None:
        path = self._dir(name) / "relay.log"
        try:
            chunk, offset = await self._run(lambda: last_lines(path, lines))
            await self._run(lambda: hand(chunk))
            while True:
                found = await self.find(name)
                offset = await self._run(partial(hand_on, path, offset, hand))
                if found is None or not found.running:
                    return
                await asyncio.sleep(_FOLLOW_SECONDS)
        except FileNotFoundError:
            return

    async def watch(self, tell: Tell) -> None:
        await watch(self.list, tell)

    async def places(self) -> builtins.list[Path]:
        return []

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # In threads

    def _dir(self, name: str) -> Path:
        return rundir.worklet_dir(self._share_dir, name)

    def _names(self, holding: str) -> builtins.list[str]:
        return sorted(path.parent.name for path in (self._share_dir / "worklets").glob(f"*/{holding}"))

    def _launch(self, spec: WorkletSpec) -> Worklet:
        import subprocess

        found = self._found(spec.name)
        if found and found.running:
            raise WorkletStartFailed(f"The worklet {spec.name} is running already.", suggestion="Stop it first.")
        self._end(spec.name, 0)
        run_dir = rundir.prepare(self._share_dir, spec.name, None)
        work, mark = run_dir.parent / "work", self._mark(spec.name)
        for directory in (work / "home", work / "workspace"):
            directory.mkdir(parents=True, exist_ok=True)
        env = {
            "PATH": f"{self._claude.parent}:{_PATH}",
            "HOME": str(work / "home"),
            "LANG": "C.UTF-8",
            "WORKLET_ID": mark,
            "PYTHONPATH": str(self._clients()),
            "FLOW_KV_GUIDE": str(GUIDE),
        }
        marked = dict(spec.env) | {"WORKLET_ID": mark}
        told = rundir.told(spec, cwd=str(work / "workspace"), home=env["HOME"], env=marked, shared=True)
        rundir.write_spec(run_dir, told, agent=None)
        shell = ["/bin/sh", "-c", _LAUNCH, "sh", str(run_dir), str(run_dir.parent / "relay.log"), *self._command]
        done = subprocess.run(shell, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        started = _process(int(done.stdout)) if done.returncode == 0 else None
        if started is None:
            reason = done.stderr.strip() or self._tail(spec.name, 1).strip() or "its process ended at once"
            raise WorkletStartFailed(f"The worklet did not start: {reason}.")
        (run_dir.parent / "pid.json").write_text(json.dumps(asdict(started)), encoding="utf-8")
        return Worklet(spec.name, str(started.pid), run_dir, running=True)

    def _clients(self) -> Path:
        try:
            return show_clients(self._share_dir)
        except OSError as e:
            raise WorkletStartFailed(
                f"Flow cannot write {self._share_dir}: {e.strerror or e}.", suggestion="Check the disk and the rights."
            ) from e

    def _mark(self, name: str) -> str:
        return f"{self._identity.instance}-{name}"

    def _found(self, name: str) -> Worklet | None:
        pid = self._recorded(name)
        if pid is None:
            return None
        return Worklet(name, str(pid.pid), self._dir(name) / "run", running=_process(pid.pid) == pid)

    def _recorded(self, name: str) -> _Pid | None:
        try:
            return _Pid(**json.loads((self._dir(name) / "pid.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _end(self, name: str, grace: float) -> str | None:
        """SIGTERM to the relay, which ends the CLI; after `grace` SIGKILL to everything that carries the mark."""
        pid = self._recorded(name)
        ended: str | None = "Claude's process is gone" if pid is None else "Claude's process was killed"
        if pid is not None and _process(pid.pid) == pid:
            ended = None
            _kill(pid.pid, signal.SIGTERM)
            _wait(lambda: _process(pid.pid) != pid, grace)
            if _process(pid.pid) == pid:
                _kill(pid.pid, signal.SIGKILL)
        mark = f"WORKLET_ID={self._mark(name)}".encode()
        _wait(lambda: _none_left(mark), 5)
        (self._dir(name) / "pid.json").unlink(missing_ok=True)
        return ended

    def _tail(self, name: str, lines: int) -> str:
        try:
            with (self._dir(name) / "relay.log").open(encoding="utf-8", errors="replace") as file:
                return "".join(deque(file, maxlen=lines))
        except FileNotFoundError:
            return ""


def show_clients(share_dir: Path) -> Path:
    """Puts the key-value store's clients where worklets' programs find them: the directory for PYTHONPATH.

    They are links to where Flow is installed. Node.js looks for modules in all directories above a program's, so the
    share directory's own serves all worklets.
    """
    import kvstore

    package = Path(kvstore.__file__).parent
    python = share_dir / "clients" / "python"
    for link, target in (
        (python / "kvstore", package),
        (share_dir / "node_modules" / "@flow" / "kvstore", package / "typescript"),
    ):
        if not link.is_symlink() or link.readlink() != target:
            link.parent.mkdir(parents=True, exist_ok=True)
            draft = link.with_name(f".{link.name}.{os.getpid()}")
            draft.unlink(missing_ok=True)
            draft.symlink_to(target, target_is_directory=True)
            draft.replace(link)
    return python


def bundled_claude() -> Path:
    """The CLI's binary inside the claude-agent-sdk wheel."""
    from importlib.util import find_spec

    spec = find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        raise RuntimeUnavailable("The claude-agent-sdk wheel is not installed.", suggestion="Run `make setup`.")
    return Path(spec.origin).parent / "_bundled" / "claude"


def _special(directory: str, names: builtins.list[str]) -> builtins.set[str]:
    """Pipes, sockets and devices: they belong to running processes, and cannot be copied."""

    def is_special(name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(Path(directory, name)).st_mode
            return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
        return False

    return {name for name in names if is_special(name)}


def _process(pid: int) -> _Pid | None:
    """The living process with that id; None when there is none or it has ended and waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name, in brackets, may hold anything
    return None if fields[0] in "ZX" else _Pid(pid, int(fields[19]), boot)


def _carrying(mark: bytes) -> list[int]:
    """Ids of the living processes with `mark` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0") and _process(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def _none_left(mark: bytes) -> bool:
    """Kills what carries the mark; True when there was nothing. Ask again: a process may fork while we look."""
    found = _carrying(mark)
    for pid in found:
        _kill(pid, signal.SIGKILL)
    return not found


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Polls every 20 ms; there is no other way to wait for a process that is not a child."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True
