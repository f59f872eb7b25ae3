"""A process that has imported Flow and forks: each child runs as a new Python would that imports it in no time.

    python -P tests/forkserver.py DESCRIPTOR

The descriptor is a sequenced-packet socket. Each packet is a JSON object of `argv` (what Python's own command line
would be: `-m module …` or `script …`), `env` and `cwd`, with two descriptors: where the child's output goes, and where
its status (as `os.waitpid` gives it, in digits) is written when it has ended. The answer is the child's process id.
The server ends with the socket's other end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
from typing import Any

#: What `flow serve` imports by itself only when it needs it.
NEEDED = ("bot.cli", "config.settings", "bot.serve", "bot.socket", "bot.slackdoor", "worklets.local", "worklets.docker",
          "apscheduler.schedulers.asyncio", "sqlalchemy.dialects.sqlite.aiosqlite")  # fmt: skip


def serve(control: socket.socket) -> list[str] | None:
    """Returns in each child, with its arguments; and in the server itself, with None, at its end."""
    children: dict[int, tuple[int, int]] = {}  # by its pidfd, a child's id and where its status goes
    while True:
        ready, _, _ = select.select([control.fileno(), *children], [], [])
        for one in ready:
            if one in children:
                pid, status = children.pop(one)
                with contextlib.suppress(BrokenPipeError):
                    os.write(status, str(os.waitpid(pid, 0)[1]).encode())
                os.close(status)
                os.close(one)
                continue
            packet, given, _, _ = socket.recv_fds(control, 1 << 20, 2)
            if not packet:
                return None
            request, (output, status) = json.loads(packet), given
            pid = os.fork()
            if pid == 0:
                others = [*children, *(other for _, other in children.values())]
                _become(request, output, [control.detach(), status, *others])
                return list(request["argv"])
            os.close(output)
            children[os.pidfd_open(pid)] = pid, status
            control.send(str(pid).encode())


def _become(request: dict[str, Any], output: int, foreign: list[int]) -> None:
    for descriptor in foreign:
        os.close(descriptor)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])


def main() -> None:
    gc.disable()
    for module in NEEDED:
        importlib.import_module(module)
    gc.freeze()  # the children share it
    gc.enable()
    argv = serve(socket.socket(fileno=int(sys.argv[1])))
    if argv is None:
        return
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        sys.path.insert(0, os.path.dirname(argv[0]))
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
