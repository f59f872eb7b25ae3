"""The host directory of a worklet, which both runtimes and the gateway share.

    <share_dir>/worklets            0700: nobody but Flow comes in from the host's side
    └── <name>/
        ├── run/                    the worklet's /run/worklet: sockets, journal, spec.json until the relay read it
    │   └── before-<time>/      a predecessor's journal, until all of it is stored
        ├── filling, filled         how far a repository was brought into the volume; neither: none was
        └── work/                   local runtime only: what is a volume under Docker

Inside the container the agent is user 1000. When Flow is root, `run/` is given to that user; when Flow is
user 1000 it simply owns it; as any other user (member of the docker group) Flow opens `run/` to everybody,
and the 0700 directory above keeps everybody else out.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from worklets.errors import WorkletStartFailed
from worklets.runtime import WorkletSpec

AGENT_UID = 1000
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


def write_spec(run: Path, spec: WorkletSpec, *, agent: int | None, cwd: str, home: str, env: dict[str, str]) -> None:
    """Leaves `spec.json` for the relay and clears what a predecessor left.

    An earlier agent could write here, so nothing is followed or reused: every name is cleared first.
    """
    content = {"command": list(spec.command), "env": env, "token": spec.token, "cwd": cwd, "home": home}
    try:
        _sweep(run)
        if not _is_journal(run / "journal"):
            clear(run / "journal")
        for name in ("spec.json", "relay.sock"):
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


def clear_remains(run: Path) -> None:
    """Takes away the sockets, and `spec.json` with its secrets, of a worklet that has ended. Raises OSError.

    The relay removes its own at the start and at the end, unless it is killed; the gateway's socket stays when the door
    closes.
    """
    for name in ("spec.json", "relay.sock", "gateway.sock"):
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
        shutil.rmtree(path, ignore_errors=True)  # it refuses to follow a link


def _is_journal(path: Path) -> bool:
    """Whether a relay can go on with what stands there: it deletes the files of its predecessors."""
    return path.is_dir() and not path.is_symlink() and not any(one.is_dir() for one in path.glob("*.log"))


def remove(share_dir: Path, name: str) -> None:
    """Removes the worklet's host directory with all that is in it. Raises PermissionError for files not ours."""
    directory = worklet_dir(share_dir, name)
    for path in (directory / "work", directory):  # what tells how far `work` was filled goes after it
        with suppress(FileNotFoundError):
            shutil.rmtree(path)


def _disk(path: Path, error: OSError) -> WorkletStartFailed:
    return WorkletStartFailed(
        f"Flow cannot write {path}: {(error.strerror or str(error)).lower()}.",
        suggestion="Check the disk and the rights of FLOW_SHARE_DIR, then write again.",
    )
