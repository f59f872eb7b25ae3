"""The host directory of a worklet, which both runtimes and the gateway share.

    <share_dir>/worklets            0700: nobody but Flow comes in from the host's side
    └── <name>/
        ├── run/                    the worklet's /run/worklet: sockets, journal, spec.json until the relay read it,
        │   │                       kv.token while the gateway's door is open
        │   └── before-<time>/      a predecessor's journal, until all of it is stored
        ├── filling, filled         how far a repository was brought into the volume; neither: none was
        └── work/                   local runtime only: what is a volume under Docker

Inside the container the agent is user 1000. When Flow is root, `run/` is given to that user; when Flow is
user 1000 it simply owns it; as any other user (member of the docker group) Flow opens `run/` to everybody,
and the 0700 directory above keeps everybody else out.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worklets.errors import WorkletStartFailed
from worklets.runtime import WorkletSpec

AGENT_UID = 1000
KV_TOKEN = "kv.token"  # noqa: S105 - the name of the file
_SWEEPING, _REMOVING = 20.0, 90.0  # seconds; what is left goes the next time
_MOST_JOURNALS = 4  # of processes that were lost one after the other, before Flow stored anything


def worklet_dir(share_dir: Path, name: str) -> Path:
    """`<share_dir>/worklets/<name>`, absolute. Raises WorkletStartFailed for a name that is none."""
    if not re.fullmatch(r"[a-z0-9-]{1,40}", name):
        raise WorkletStartFailed(f"{name!r} cannot name a worklet.", suggestion="Use a-z, 0-9 and dashes, 40 at most.")
    return share_dir.resolve() / "worklets" / name


def prepare(share_dir: Path, name: str, agent: int | None) -> Path:
    """Makes the worklet's `run` directory for an agent with that user id (None: Flow's own). Returns it."""
    run = worklet_dir(share_dir, name) / "run"
    try:
        run.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        run.parent.parent.chmod(0o700)
        run.mkdir(parents=True, exist_ok=True)
        if agent is None or agent == os.geteuid():
            run.chmod(0o700)
        elif os.geteuid() == 0:
            os.chown(run, agent, agent)
            run.chmod(0o700)
        else:
            run.chmod(0o777)
    except OSError as e:
        raise _disk(run, e) from e
    return run


def begin_filling(share_dir: Path, name: str) -> None:
    """From here to `end_filling` what stands in the worklet's volume is worth nothing. Raises OSError."""
    directory = worklet_dir(share_dir, name)
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(exist_ok=True)
    (directory / "filling").touch()


def end_filling(share_dir: Path, name: str) -> None:
    """Raises OSError."""
    directory = worklet_dir(share_dir, name)
    (directory / "filling").replace(directory / "filled")


def is_half_filled(share_dir: Path, name: str) -> bool:
    """Whether a filling was begun and cut off: by a kill, say."""
    return (worklet_dir(share_dir, name) / "filling").exists()


def is_filled(share_dir: Path, name: str) -> bool:
    """Whether the last filling was finished. A version that did not write this down may have filled it too."""
    directory = worklet_dir(share_dir, name)
    return (directory / "filled").exists() and not (directory / "filling").exists()


def told(
    spec: WorkletSpec,
    *,
    cwd: str,
    home: str,
    env: dict[str, str],
    disk: dict[str, Any] | None = None,
    shared: bool = False,
    sealed: bool = False,
) -> dict[str, Any]:
    """What stands in `spec.json` for the relay: see worklets/relay/relay.py."""
    return {
        "command": list(spec.command),
        "env": env,
        "token": spec.token,
        "cwd": cwd,
        "home": home,
        "disk": disk,
        "shared": shared,
        "sealed": sealed,
        "egress": spec.egress,
    }


def write_spec(run: Path, content: dict[str, Any], *, agent: int | None) -> None:
    """Leaves `spec.json` for the relay and clears what a predecessor left.

    An earlier agent could write here, so nothing is followed or reused: every name is cleared first.
    """
    try:
        _sweep(run)
        if not _is_journal(run / "journal"):
            clear(run / "journal")
        for name in ("spec.json", "relay.sock", "startup.ended"):
            clear(run / name)
        ours = agent is None or agent == os.geteuid()
        mode = 0o600 if ours or os.geteuid() == 0 else 0o644
        handle = os.open(run / "spec.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, mode)
            if agent is not None and not ours and os.geteuid() == 0:
                os.fchown(handle, agent, agent)
            json.dump(content, file)
    except OSError as e:
        raise _disk(run, e) from e


def hand_over(run: Path, name: str, text: str) -> None:
    """Puts a file there that only the agent may read, whole or not at all, in place of what stands there.

    It is made beside `run`, where the agent cannot reach: nothing that the agent left is opened or followed. Raises
    OSError.
    """
    draft = run.parent / f".{name}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    owner = run.lstat()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            if os.geteuid() == 0:
                os.fchown(handle, owner.st_uid, owner.st_gid)
            elif owner.st_mode & 0o007:
                os.fchmod(handle, 0o644)  # the agent is another user: see `prepare`
            file.write(text)
        try:
            draft.replace(run / name)
        except (IsADirectoryError, PermissionError):
            clear(run / name)
            draft.replace(run / name)
    finally:
        draft.unlink(missing_ok=True)


def clear_remains(run: Path) -> None:
    """Takes away the sockets, and the files with secrets, of a worklet that has ended. Raises OSError.

    The relay removes its own at the start and at the end, unless it is killed; the gateway's sockets stay when the
    doors close.
    """
    for name in ("spec.json", KV_TOKEN, "relay.sock", "gateway.sock", "proxy.sock", "inside.sock"):
        clear(run / name)


def put_journal_aside(run: Path) -> None:
    """Before a new relay starts, which deletes the old one's journal. Raises OSError."""
    with suppress(FileNotFoundError):
        (run / "journal").rename(run / f"before-{time.time_ns():020d}")


def journals(run: Path) -> list[Path]:
    """The journals of lost predecessors that were put aside, the oldest first."""
    return sorted(run.glob("before-*"))[-_MOST_JOURNALS:]


def forget_journals(run: Path) -> None:
    """What was put aside is stored. Raises OSError."""
    for path in run.glob("before-*"):
        clear(path)
    _sweep(run)


def clear(path: Path) -> None:
    """Takes away whatever stands there, following nothing. Raises OSError.

    The agent can make a directory in the place of a file, with content that Flow's user may not delete: to rename it
    needs no right inside it. What is renamed is deleted at the worklet's next start, as far as possible.
    """
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):
        path.rename(path.with_name(f".gone-{secrets.token_hex(8)}"))


def _sweep(run: Path) -> None:
    for path in run.glob(".gone-*"):
        with suppress(OSError):
            _delete(path, _SWEEPING)


def _delete(path: Path, patience: float) -> None:
    """With all that is in it, following nothing. Raises OSError; PermissionError where something stays.

    By `rm`, which goes down as deep as directories go: an agent can make them deeper than Python's own calls, or our
    open files, reach.
    """
    if not os.path.lexists(path):
        return
    null = subprocess.DEVNULL
    try:
        done = subprocess.run(
            ["rm", "-rf", "--", path], stdin=null, stdout=null, stderr=null, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(path)) from late
    if done.returncode:
        raise PermissionError(errno.EACCES, "not everything in it could be deleted", str(path))


def _is_journal(path: Path) -> bool:
    """Whether a relay can go on with what stands there: it deletes the files of its predecessors."""
    return path.is_dir() and not path.is_symlink() and not any(one.is_dir() for one in path.glob("*.log"))


def discard(path: Path) -> None:
    """Takes away what stands there with all that is in it, following nothing, in a minute and a half at most.

    Raises OSError; PermissionError where something stays.
    """
    _delete(path, _REMOVING)


def remove(share_dir: Path, name: str) -> None:
    """Removes the worklet's host directory with all that is in it. Raises PermissionError for files not ours."""
    directory = worklet_dir(share_dir, name)
    for path in (directory / "work", directory):  # what tells how far `work` was filled goes after it
        discard(path)


def last_used(share_dir: Path) -> dict[str, datetime]:
    """When worklets that have a host directory were started or ended last, by their names."""
    found = {}
    for directory in (share_dir / "worklets").glob("[!.]*"):
        with suppress(OSError):
            moments = [directory.lstat().st_mtime, (directory / "run").lstat().st_mtime]
            found[directory.name] = datetime.fromtimestamp(max(moments), UTC)
    return found


def _disk(path: Path, error: OSError) -> WorkletStartFailed:
    return WorkletStartFailed(
        f"Flow cannot write {path}: {(error.strerror or str(error)).lower()}.",
        suggestion="Check the disk and the rights of FLOW_SHARE_DIR, then write again.",
    )
