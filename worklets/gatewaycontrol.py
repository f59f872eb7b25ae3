"""How Flow and the gateway's process find each other, and what they say.

    <share_dir>/gateway             0700
    ├── lock                        held (flock) by the one process that serves; its process id inside
    ├── control.sock                where it is told what to do
    └── log, log.1                  what it has to say, 1 MiB each at most

On the control socket both sides send JSON objects, one a line. Each request has one answer:

    hello {version, base_url, api_key, oauth_token}  → {version, pid, doors}
    open {name, run_dir}                             → {}
    close {name}                                     → {}
    doors {}                                         → {version, pid, doors, running}
    shutdown {}                                      → {} when nothing listens any more

The name of a request is its `do`; an answer carries the request's `id`. `hello` counts only if `version` is the
process's own or null: one of another version is asked to shut down, finishes its running requests, and a new one
opens the doors. An answer with `error` says why not, with `errno` where a system call failed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from pathlib import Path

LOCK, SOCKET, LOG = "lock", "control.sock", "log"
PROGRAM = "worklets.gatewayprocess"
LONGEST = 16 << 20  # bytes of a line: an answer names every open door

_SOURCES = ("gateway.py", "gatewaycontrol.py", "gatewaydoor.py", "gatewayprocess.py", "identity.py", "sockets.py")


def control_dir(share_dir: Path) -> Path:
    return share_dir.resolve() / "gateway"


def version() -> str:
    """16 hex digits that differ when the code that a gateway's process runs does: ours, aiohttp's, Python's."""
    from aiohttp import __version__

    digest = hashlib.sha256(f"{__version__} {sys.version}".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]


def acquire(directory: Path) -> int | None:
    """The held lock's file descriptor, with this process's id written; None while another process holds it.

    Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    os.truncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def holder(share_dir: Path) -> int | None:
    """The id of the process that serves this share directory's doors; None when there is none."""
    try:
        handle = os.open(control_dir(share_dir) / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = int(os.read(handle, 20) or 0)
        return pid if _is_gateway(pid) else None
    finally:
        os.close(handle)
    return None


def _is_gateway(pid: int) -> bool:
    """The lock may be another container's, where ids mean other processes."""
    try:
        return PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
