"""The relay: keeps the Claude CLI running inside a worklet, whether or not Flow is there to listen.

    python -I relay.py <run_dir>

`<run_dir>/spec.json` says what to start: `command`, `env`, `token`, `cwd`, `home`; it is removed once read.
The CLI is started before anything slow is imported: it takes a third of a second to load, and that is
when this process loads its own libraries.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from worklets.relay.bridge import Bridge

_PR_SET_DUMPABLE = 4
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_LINGER = 60.0  # seconds that the exit record is kept for an app that is away
_LAST_WORDS = 1.0  # the same after SIGTERM: whoever sent it is waiting


class Child:
    """The CLI process and our end of its stdin and stdout; or why it could not be started."""

    def __init__(self, stdio: socket.socket, process: subprocess.Popen[bytes] | None, error: str = "") -> None:
        # Not a dataclass: importing those would hold up the start by 10 ms.
        self.stdio, self.process, self.error = stdio, process, error


def start(spec: dict[str, Any], port: int) -> Child:
    """Starts the CLI in a session of its own.

    Its stdin and stdout are one socketpair, not pipes: a tool process under the same uid could open
    `/proc/<cli>/fd/0` of a pipe and write control messages there; for a socket the kernel refuses that.
    """
    env = {**os.environ, **spec["env"], "HOME": spec["home"], "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}"}
    env.pop("CLAUDECODE", None)  # inherited, it makes the CLI believe that it runs inside itself
    command: list[str] = spec["command"]
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            for directory in (spec["home"], spec["cwd"]):
                Path(directory).mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                cwd=spec["cwd"],
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            return Child(ours, None, f"{command[0]} could not be started: {error}")
    return Child(ours, process)


def hide() -> None:
    """No other process of this uid may read our memory or file descriptors, where the token is."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


async def run(bridge: Bridge, listener: socket.socket) -> None:
    """Serves until the process has ended and the app knows, or has had its time to."""
    import asyncio

    from forward import forward  # type: ignore[import-not-found]
    from websockets.asyncio.server import unix_serve

    loop, told_to_stop = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        told_to_stop.set()
        bridge.signal(signal.SIGTERM)
        loop.call_later(_GRACE, bridge.signal, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    _remove("relay.sock")
    await bridge.open()
    forwarding = asyncio.create_task(forward(listener, "gateway.sock"))
    async with unix_serve(
        bridge.serve,
        "relay.sock",
        process_request=bridge.refuse,
        compression=None,
        max_size=64 << 20,
        close_timeout=2,
        server_header=None,
    ):
        _open_to_all("relay.sock")
        await bridge.run()
        linger = [asyncio.create_task(bridge.acknowledged()), asyncio.create_task(_last_words(told_to_stop, bridge))]
        await asyncio.wait(linger, timeout=_LINGER, return_when=asyncio.FIRST_COMPLETED)
        for task in (*linger, forwarding):
            task.cancel()
        await asyncio.gather(*linger, forwarding, return_exceptions=True)
    _remove("relay.sock")


async def _last_words(told_to_stop: asyncio.Event, bridge: Bridge) -> None:
    import asyncio

    await told_to_stop.wait()
    if bridge.owned:
        await asyncio.sleep(_LAST_WORDS)


def _open_to_all(name: str) -> None:
    """Flow may run under another uid; the directory and the token guard the socket."""
    Path(name).chmod(0o666)


def _remove(name: str) -> None:
    Path(name).unlink(missing_ok=True)


def main(run_dir: str) -> None:
    os.chdir(run_dir)
    spec_path = Path("spec.json")
    spec = json.loads(spec_path.read_bytes())
    spec_path.unlink()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    child = start(spec, listener.getsockname()[1])
    hide()

    sys.path.insert(0, str(Path(__file__).resolve().parent))  # `python -I` leaves the script's folder out
    import asyncio
    import secrets

    from bridge import Bridge  # type: ignore[import-not-found]
    from journal import Journal  # type: ignore[import-not-found]

    async def serve() -> None:
        journal = Journal(Path("journal"), secrets.token_hex(8))
        try:
            await run(Bridge(child, journal, spec["token"]), listener)
        finally:
            journal.close()

    asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1])
