"""A real relay process around a small child program, for the tests of relay and agent."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.http11 import Request, Response

from worklets.relay.proof import NONCE, PROOF, Sealed, proof, seals

RELAY = Path(__file__).parents[3] / "worklets" / "relay" / "relay.py"
TOKEN = "secret-token"

#: Reads input lines; knows a few orders. Written like a CLI: one JSON object a line, both ways.
CHILD = r"""
import json, os, signal, sys, threading

def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()

def count(n, size):
    for i in range(1, n + 1):
        say(type="number", n=i, pad="x" * size)

for raw in sys.stdin:
    line = json.loads(raw)
    order = line.get("message", {}).get("content", "") if line["type"] == "user" else ""
    word, *args = order.split()[:1] + order.split()[1:] if order else [""]
    if word == "count":
        threading.Thread(target=count, args=[int(a) for a in args]).start()
    elif word == "big":
        say(type="big", pad="y" * int(args[0]))
    elif word == "exit":
        sys.stderr.write("last words\n")
        sys.exit(int(args[0]))
    elif word == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(type="stubborn")
    elif word == "env":
        say(type="env", env=dict(os.environ), cwd=os.getcwd())
    elif word == "say":
        sys.stdout.write(order[4:] + "\n")
        sys.stdout.flush()
    elif word == "ask":
        say(type="control_request", request_id=args[0],
            request={"subtype": "can_use_tool", "tool_name": "Bash", "input": {}, "tool_use_id": "t1"})
    elif line["type"] == "control_request" and line["request"]["subtype"] == "interrupt" and not os.path.exists("deaf"):
        say(type="control_response", response={"subtype": "success", "request_id": line["request_id"], "response": {}})
        say(type="interrupted", id=line["request_id"])
    elif line["type"] == "control_request" and line["request"]["subtype"] == "get_usage":
        say(type="control_response",
            response={"subtype": "success", "request_id": line["request_id"], "response": {"asked": line["request"]}})
    elif line["type"] == "control_request" and line["request"]["subtype"] == "set_model":
        say(type="control_response",
            response={"subtype": "error", "request_id": line["request_id"], "error": "no such model"})
    else:
        say(type="echo", line=line)
"""


def order(text: str) -> dict[str, Any]:
    return {"type": "user", "message": {"role": "user", "content": text}}


@asynccontextmanager
async def running_relay(root: Path, command: list[str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """The relay's process; its run directory is `root/run`."""
    run_dir = root / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    (root / "child.py").write_text(CHILD)
    spec = {
        "command": command or [sys.executable, "-I", str(root / "child.py")],
        "env": {"GREETING": "hello"},
        "token": TOKEN,
        "cwd": str(root / "work" / "workspace"),
        "home": str(root / "work" / "home"),
    }
    (run_dir / "spec.json").write_text(json.dumps(spec))
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", str(RELAY), str(run_dir))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def forged_relay(
    path: Path, talk: Callable[[Sealed], Awaitable[None]], token: str = TOKEN
) -> AsyncIterator[None]:
    """One that has the token all the same, and says whatever `talk` does."""
    ours = "0" * 32

    def prove(_ws: ServerConnection, request: Request, response: Response) -> None:
        response.headers[NONCE], response.headers[PROOF] = ours, proof(token, request.headers[NONCE], ours)

    async def serve(ws: ServerConnection) -> None:
        assert ws.request is not None
        flows, relays = seals(token, ws.request.headers[NONCE], ours)
        await talk(Sealed(ws, relays, flows))

    async with unix_serve(serve, str(path), compression=None, process_response=prove):
        yield
