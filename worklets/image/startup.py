"""Runs a session's startup script once in its volume, then becomes the command that follows: Claude's.

    python3 -IS startup.py SECONDS NAME COMMAND…

An administrator's script is the environment's FLOW_STARTUP_SCRIPT, which nothing after us sees; without it the script
is the repository's .claude/startup/NAME.sh. Its output goes into ~/.flow/startup.log, and how it ended into
~/.flow/startup.json: a worklet that is started anew does not run it again. Of a script that failed stdout, which is
Claude's line to Flow, gets one line of JSON; what Claude is told stands in its system prompt. Claude begins anyway,
and `startup.ended`, beside the relay's socket, says that it does.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

_LOG_BYTES = 1 << 20
_TAIL_BYTES = 1_500
_LINGER = 0.5  # seconds that output is read of what the script left running
_PROMPT = "--append-system-prompt="
_SCRIPT = "FLOW_STARTUP_SCRIPT"


def run(seconds: float, name: str, text: str | None, log: Path) -> tuple[str | None, bytes]:
    """Why it failed (None: it did not), and the end of its output."""
    command = ["bash", "-c", text, name] if text is not None else ["bash", f".claude/startup/{name}.sh"]
    if text is None and not Path(command[1]).is_file():
        return f"there is no {command[1]} in the repository", b""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        return f"it did not start ({error.strerror})", b""
    with log.open("wb") as kept:
        tail, done = _follow(process, time.monotonic() + seconds, kept)
        if not done:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _keep_reading(process, kept)
    if not done:
        return f"it did not end within {seconds:g} s", tail
    return (f"exit status {process.returncode}" if process.returncode else None), tail


def _keep_reading(process: subprocess.Popen[bytes], kept) -> None:  # type: ignore[no-untyped-def]
    """Leaves a process of its own to read what goes on to write: a server that prints would end with the pipe."""
    assert process.stdout is not None
    if (more := process.stdout.read(1)) != b"":  # at its end nobody writes any more
        kept.write((more or b"")[: _LOG_BYTES - kept.tell()])
        kept.flush()
        if (child := os.fork()) == 0:
            if os.fork() == 0:  # nobody waits for it
                _drain(process.stdout.fileno(), kept.fileno())
            os._exit(0)
        os.waitpid(child, 0)
    process.stdout.close()


def _drain(source: int, log: int) -> None:
    """Until nobody writes any more. The log takes no more than it may."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # stdout is Claude's
            os.dup2(nothing, standard)
        os.set_blocking(source, True)
        written = os.fstat(log).st_size
        while chunk := os.read(source, 65536):
            if room := _LOG_BYTES - written:
                written += os.write(log, chunk[:room])
    finally:
        os._exit(0)


def _follow(process: subprocess.Popen[bytes], end: float, kept) -> tuple[bytes, bool]:  # type: ignore[no-untyped-def]
    """Until it has ended, or `end`; what it started in the background may go on, and hold the pipe open."""
    tail, written = b"", 0
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        reading = True
        while time.monotonic() < end:
            if reading:
                selector.select(0.1)
                chunk = process.stdout.read(65536)
                reading = chunk != b""
                if chunk:
                    kept.write(chunk[: _LOG_BYTES - written])
                    written += min(len(chunk), _LOG_BYTES - written)
                    tail = (tail + chunk)[-_TAIL_BYTES:]
            else:
                time.sleep(0.02)
            if process.poll() is not None:
                if not reading:
                    return tail, True
                end = min(end, time.monotonic() + _LINGER)
    return tail, process.poll() is not None


def once(seconds: float, name: str, text: str | None) -> str | None:
    """Why it failed, now or in an earlier worklet; None: it did not."""
    place = Path.home() / ".flow"
    mark = place / "startup.json"
    try:
        told = json.loads(mark.read_text(encoding="utf-8"))
        if told["script"] == name:
            return None if told["failed"] is None else str(told["failed"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        place.mkdir(parents=True, exist_ok=True)
        failed, tail = run(seconds, name, text, place / "startup.log")
        mark.write_text(json.dumps({"script": name, "failed": failed}), encoding="utf-8")
    except OSError as error:
        failed, tail = f"its log cannot be written ({error.strerror})", b""
    if failed is not None:
        line = {"type": "flow_startup", "script": name, "failed": failed, "tail": tail.decode(errors="replace")}
        os.write(1, json.dumps(line).encode() + b"\n")
    return failed


def told(command: list[str], name: str, failed: str) -> list[str]:
    """The command, whose system prompt says what went wrong."""
    note = (
        f"\n\nThis session's startup script {name} failed: {failed}. Its output stands in ~/.flow/startup.log. "
        "What it should have set up may be missing."
    )
    return [word + note if word.startswith(_PROMPT) else word for word in command]


def main() -> None:
    seconds, name, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    failed = once(seconds, name, os.environ.pop(_SCRIPT, None))
    if failed is not None:
        command = told(command, name, failed)
    if token := os.environ.get("FLOW_KV_TOKEN_FILE"):  # it lies in the run directory
        Path(token).with_name("startup.ended").touch()
    os.execvp(command[0], command)  # noqa: S606 - there is no shell in it


if __name__ == "__main__":
    main()
