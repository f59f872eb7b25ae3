"""The MCP server `flow` inside a worklet: tools with which Claude shows people something in the thread.

    python -IS flowtools.py <outgoing> <limit> [--previews]

Started by the CLI in the workspace (stdio, one JSON-RPC object a line). `send_file`: a file goes as a copy to
`<outgoing>/<tool use id>/`: `content` and `meta.json`, the directory being named only when it is whole. Flow fetches
it from there, shows it, and leaves `reply.json` {"error": sentence or null} beside it. `open_preview` only looks
whether a server is there: Flow sees its use and offers it. Standard library only.

The CLI waits for this server before it asks the model for the first time: what only a call needs is imported then.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

PATIENCE = 25.0  # seconds for Flow's reply: after that Claude goes on, and the file follows
_POLL = 0.05
_PROTOCOL = "2025-06-18"
_REGULAR = 0o100000  # S_IFREG
_UNKNOWN_METHOD, _BAD_PARAMETERS = -32601, -32602

TOOL = {
    "name": "send_file",
    "description": (
        "Shows a file of your workspace to the people in the Slack thread: an image appears as an image, anything else "
        "as a file to open or download. Use it for charts, screenshots, documents and long output that people should "
        "have. The file is shown as it is when you call this."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file, in the workspace; relative to it, or absolute."},
            "title": {"type": "string", "description": "Shown above the file; its name if not given."},
            "comment": {"type": "string", "description": "A sentence that is shown with the file."},
        },
        "required": ["path"],
        "additionalProperties": False,
    },
}

PREVIEW = {
    "name": "open_preview",
    "description": (
        "Offers a web server that runs in your container to the people in the Slack thread: they get a button that "
        "opens it in their browsers. Start the server first, detached, so that it goes on after your command, for "
        "example `nohup npm run dev > /tmp/dev.log 2>&1 &`, and wait until it listens. WebSockets work too."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {
            "port": {
                "type": "integer",
                "minimum": 1,
                "maximum": 65535,
                "description": "Where it listens on localhost.",
            },
            "path": {"type": "string", "description": "What to open first, such as /admin; / if not given."},
            "title": {"type": "string", "description": "What it is, in a few words, for the people."},
            "command": {
                "type": "string",
                "description": "A shell command that starts the server anew from the workspace, in the foreground; it "
                "is run when somebody opens the preview after the container slept. Without it they have to ask you.",
            },
        },
        "required": ["port"],
        "additionalProperties": False,
    },
}


class Refused(Exception):
    """What is wrong, as a sentence for Claude."""


class Sender:
    def __init__(self, workspace: Path, outgoing: Path, limit: int, patience: float = PATIENCE) -> None:
        """`limit` in bytes; `patience` in seconds."""
        self._workspace, self._outgoing = workspace.resolve(), outgoing
        self._limit, self._patience = limit, patience

    def call(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The result of `tools/call`."""
        given, meta = parameters.get("arguments") or {}, parameters.get("_meta") or {}
        try:
            said = self.send(given, _id(meta.get("claudecode/toolUseId")))
            failed = False
        except Refused as error:
            said, failed = str(error), True
        except OSError as error:
            said, failed = f"The file could not be handed over: {error.strerror or error}.", True
        return {"content": [{"type": "text", "text": said}], "isError": failed}

    def send(self, given: dict[str, Any], name: str) -> str:
        """Hands the file over under `name` and waits for Flow's word. Raises Refused, OSError."""
        path = self._checked(given.get("path"))
        target = self._outgoing / name
        if not target.is_dir():
            self._hand_over(path, given, target)
        return self._verdict(target, path.name)

    def _checked(self, path: object) -> Path:
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            raise Refused("Give the path of a file in the workspace.")
        try:
            real = (self._workspace / path).resolve()
            if self._workspace not in real.parents:
                raise Refused(f"{path} is not in the workspace ({self._workspace}). Copy it there first.")
            found = real.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise Refused(f"There is no file {path}.") from None
        except RuntimeError:  # Python's word for a loop of links
            raise Refused(f"{path} leads nowhere.") from None
        if found.st_mode & 0o170000 != _REGULAR:
            raise Refused(f"{path} is no regular file. To send a directory, pack it into an archive first.")
        self._fits(path, found.st_size)
        return real

    def _fits(self, path: object, size: int) -> None:
        if not size:
            raise Refused(f"{path} is empty, and Slack takes no empty file.")
        if size > self._limit:
            raise Refused(f"{path} has {size:,} bytes; files of at most {self._limit:,} bytes can be sent.")

    def _hand_over(self, path: Path, given: dict[str, Any], target: Path) -> None:
        import shutil

        draft = self._outgoing / f".draft-{os.urandom(8).hex()}"
        draft.mkdir(parents=True)
        content, meta = draft / "content", draft / "meta.json"
        try:
            with open(path, "rb", opener=_unlinked) as source, content.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            size = content.stat().st_size
            self._fits(path.name, size)
            told = {key: given[key] for key in ("title", "comment") if isinstance(given.get(key), str)}
            meta.write_text(json.dumps({"name": path.name, "size": size} | told), encoding="utf-8")
            # Flow may run under another uid; the directory above keeps everybody else out.
            for one, mode in ((content, 0o644), (meta, 0o644), (draft, 0o777), (self._outgoing, 0o777)):
                one.chmod(mode)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _verdict(self, target: Path, name: str) -> str:
        end = time.monotonic() + self._patience
        while time.monotonic() < end:
            try:
                error = json.loads((target / "reply.json").read_text(encoding="utf-8")).get("error")
            except (FileNotFoundError, NotADirectoryError, ValueError):
                time.sleep(_POLL)
                continue
            if error:
                raise Refused(str(error))
            return f"{name} is in the thread."
        return f"{name} is on its way: Flow shows it in the thread as soon as Slack takes it. Do not send it again."


def _unlinked(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _id(given: object) -> str:
    """The name of a hand-over: the tool use's id, so that Flow can tell it again."""
    if (
        isinstance(given, str)
        and len(given) <= 100
        and given.isascii()
        and given.replace("_", "").replace("-", "").isalnum()
    ):
        return given
    return os.urandom(16).hex()


def open_preview(parameters: dict[str, Any]) -> dict[str, Any]:
    """The result of `tools/call`. Offering it is Flow's: it reads what this tool was given."""
    import socket

    port = (parameters.get("arguments") or {}).get("port")
    for host in ("127.0.0.1", "::1"):
        try:
            socket.create_connection((host, port), timeout=2).close()
        except (OSError, TypeError, OverflowError):
            continue
        said = "The thread offers it now: people open it with a button, for as long as they leave it open."
        return {"content": [{"type": "text", "text": said}], "isError": False}
    said = (
        f"Nothing listens at port {port} of localhost. Start the server, wait until it listens, then call this again."
    )
    return {"content": [{"type": "text", "text": said}], "isError": True}


def answer(method: str, parameters: dict[str, Any], sender: Sender, *, previews: bool = False) -> dict[str, Any]:
    """The result of a request. Raises LookupError for a method or tool that is none."""
    match method:
        case "initialize":
            version = parameters.get("protocolVersion", _PROTOCOL)
            return {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "flow", "version": "1"},
            }
        case "ping":
            return {}
        case "tools/list":
            return {"tools": [TOOL, PREVIEW] if previews else [TOOL]}
        case "tools/call" if parameters.get("name") == TOOL["name"]:
            return sender.call(parameters)
        case "tools/call" if previews and parameters.get("name") == PREVIEW["name"]:
            return open_preview(parameters)
    raise LookupError(method)


def serve(sender: Sender, *, previews: bool = False) -> None:
    """Answers requests until stdin ends; calls in threads, since they may wait for Flow."""
    writing = threading.Lock()

    def respond(request: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            reply["result"] = answer(str(request["method"]), request.get("params") or {}, sender, previews=previews)
        except LookupError as error:
            reply["error"] = {"code": _UNKNOWN_METHOD, "message": f"unknown: {error}"}
        except (AttributeError, TypeError, ValueError) as error:
            reply["error"] = {"code": _BAD_PARAMETERS, "message": str(error)}
        with writing:
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()

    for line in sys.stdin:
        try:
            request = json.loads(line)
        except ValueError:
            continue
        if isinstance(request, dict) and request.get("id") is not None and "method" in request:
            if request["method"] == "tools/call":
                threading.Thread(target=respond, args=(request,), daemon=True).start()
            else:
                respond(request)


if __name__ == "__main__":
    from pathlib import Path

    serve(Sender(Path.cwd(), Path(sys.argv[1]), int(sys.argv[2])), previews="--previews" in sys.argv[3:])
