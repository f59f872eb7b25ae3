"""How Flow and the gateway's process find each other, and what they say.

    <share_dir>/gateway             0700
    ├── lock                        held (flock) by the one process that serves; its process id inside
    ├── control.sock                where it is told what to do
    ├── usage-*.json                what a process had counted when it ended and no bot had written down: 0600, for the
    │                               next one, which removes it
    └── log, log.1                  what it has to say, 1 MiB each at most

On the control socket both sides send JSON objects, one a line. Each request has one answer:

    hello {version, base_url, api_key, oauth_token, store, egress} → {version, pid, doors, worklets, grants, limits}
    open {name, run_dir, worklet_id, grants}                → {}
    grant {name, subject, value, was}                       → {}
    close {name}                                            → {}
    usage {since, after}                                    → {rows, since}
    limit {name, dollars, spent, of, fallback}              → {}
    doors {}                                                → as hello's, and {running, answers, egress}
    shutdown {}                                             → {} when nothing listens any more

and the process, unasked, {event: kind, …} to every bot that is connected: it may be lost with either.

The name of a request is its `do`; an answer carries the request's `id`. `hello` counts only if `version` is the
process's own or null: one of another version is asked to shut down, finishes its running requests, and a new one
opens the doors. `store` is where the key-value store is (`kvdoor.told`), `worklets` whose stores can be reached: ids by
the names of doors. `egress` is what worklets may reach outside (`egress.told`), and in an answer what went there
(`Egress.state`). `grants` are what lies behind doors beside these (`worklets.gatewayroutes`); `grant` tells one subject
of them anew, where it still is what it `was`: a bot that does not run the worklet may come late. `usage` has the
model's answers that no bot has written down (`UsageBook.fetch`). `limit` is what a worklet may still spend, null as
much as it takes (`UsageBook.limit`); as a `fallback`, told by a bot that does not run the worklet, it counts only where
nobody has said anything, and the least of several. `limits` is what is left of that: a successor is told so. An answer
with `error` says why not, with `errno` where a system call failed: to `hello`, or to a look at the `doors`, and the bot
closes its connection and serves its worklets itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

LOCK, SOCKET, LOG = "lock", "control.sock", "log"
PROGRAM = "worklets.gatewayprocess"
LONGEST = 16 << 20  # bytes of a line: an answer names every open door

#: Of Flow, what a gateway's process may load, first or last; patterns from the root.
_SOURCES = (
    *(
        f"config/{name}.py"
        for name in ("__init__", "errors", "hosts", "logging", "masking", "rules", "secretpatterns", "units")
    ),
    *(f"config/slices/{name}.py" for name in ("__init__", "base", "kv", "repositories")),
    "kvstore/*.py", "kvstore/gateway/*.py",
    *(
        f"worklets/{name}.py"
        for name in (
            "__init__", "answerstream", "egress", "egressasking", "egresscarry", "egressdial", "egressdoors",
            "egressgrants", "egresshttp", "egressnetworks", "egressproxy", "errors", "gate/__init__", "gate/framing",
            "gateaddress", "gatebeyond", "gateclient", "gateway", "gatewaycontrol", "gatewaydoor", "gatewaymeter",
            "gatewaymodel", "gatewayprocess", "gatewayroutes", "gatewaysubjects", "gatewayusage", "git", "gitdoor",
            "gitgrants", "gitlab", "gitpulls", "gitpush", "identity", "kvdoor", "kvtokens", "mcpdoor", "mcppostgres",
            "mcpquery", "news", "profile", "relay/__init__", "relay/relay", "repositories", "rundir", "runtime",
            "secrets", "secretsdoor", "sidecardoor", "sidecargrants", "sidecarprocess", "sockets", "startup",
        )
    ),
)  # fmt: skip


def control_dir(share_dir: Path) -> Path:
    return share_dir.resolve() / "gateway"


def version() -> str:
    """16 hex digits that differ when the code that a gateway's process runs does: ours, aiohttp's, Python's."""
    from aiohttp import __version__

    digest = hashlib.sha256(f"{__version__} {sys.version}".encode())
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    """The files whose code a gateway's process may run."""
    root = Path(__file__).parents[1]
    return [path for pattern in _SOURCES for path in sorted(root.glob(pattern))]


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


async def dismiss(share_dir: Path, patience: float = 15.0) -> None:
    """Has the process that serves this share directory's doors end; `patience`: seconds until it is killed.

    For a Flow that has removed the worklets behind them: what asks there has 10 seconds to end.
    """
    end, sent = time.monotonic() + patience, 0
    while (pid := holder(share_dir)) is not None:
        late = time.monotonic() > end
        if late or pid != sent:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        sent = pid
        await asyncio.sleep(0.02)


def _is_gateway(pid: int) -> bool:
    """The lock may be another container's, where ids mean other processes."""
    try:
        return PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
