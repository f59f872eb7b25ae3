"""The model gateway as a process of its own: a model's answer goes on while the bot is away.

    python -m worklets.gatewayprocess SHARE_DIR

There is one for each share directory. The bot starts it and tells it over its control socket what it must know
(`worklets.gatewaycontrol` has the words); nothing secret is in its arguments, its environment or on the disk. It
ends by itself when nobody needs it any more; with `--service` it stays, for a supervisor that starts it beside the bot
(a bot in a container takes along what it started).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from config.logging import configure, get_logger
from worklets import sockets
from worklets.egressdial import Dialer
from worklets.egressdoors import Egress
from worklets.gatebeyond import Beyond
from worklets.gateway import ModelGateway
from worklets.gatewaycontrol import LOCK, LOG, LONGEST, SOCKET, acquire, control_dir, version
from worklets.gatewaydoor import Door  # noqa: F401 - loads what the first door needs
from worklets.gatewaymodel import Credential
from worklets.gatewaysubjects import routes
from worklets.gatewayusage import UsageBook
from worklets.identity import Identity
from worklets.kvdoor import StoreDoor
from worklets.relay.relay import hide

IDLE_SECONDS = 900.0  # without a bot and without a request
EMPTY_SECONDS = 10.0  # without a bot and without a worklet
_LOCK_SECONDS = 2.0  # how long a predecessor may take to let go
_TERM_SECONDS = 10.0  # what running requests have left after SIGTERM
_LOG_BYTES = 1 << 20
_UNREAD = 1 << 20  # bytes of events that a bot has not read
_ALIVE_SECONDS = 5.0

log = get_logger(__name__)


class GatewayProcess:
    """Serves from `run`'s begin to its end. `lock` is the descriptor that `gatewaycontrol.acquire` gave.

    `dialer` reaches what is outside; None: the public internet.
    """

    def __init__(
        self,
        share_dir: Path,
        lock: int,
        *,
        idle: float = IDLE_SECONDS,
        empty: float = EMPTY_SECONDS,
        dialer: Dialer | None = None,
    ) -> None:
        self._directory, self._lock = control_dir(share_dir), lock
        self._idle, self._empty = idle, empty
        self._version = version()
        self._store = StoreDoor(share_dir)
        self._egress = Egress(dialer, tell=self._tell)
        self._beyond = Beyond(share_dir)
        self._gateway = ModelGateway(
            "", None, Identity.load(share_dir), self._store, self._egress, routes=routes(), tell=self._tell,
            usage=UsageBook(lambda: self._tell("usage"), self._directory), beyond=self._beyond,
        )  # fmt: skip
        self._bots: set[asyncio.StreamWriter] = set()
        self._changed = time.monotonic()  # when a bot left, or a door closed for good
        self._one_at_a_time = asyncio.Lock()
        self._end = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None
        self._control: asyncio.Server | None = None

    async def run(self) -> None:
        """Returns when it was told to end or nobody needs it, and all requests have ended. Raises OSError."""
        listening = sockets.listen(self._directory, SOCKET, mode=0o600)
        self._control = await asyncio.start_unix_server(self._converse, sock=listening, limit=LONGEST)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminate)
        log.info("the model gateway is ready", pid=os.getpid(), version=self._version)
        watching, ending = asyncio.create_task(self._watch()), asyncio.create_task(self._end.wait())
        try:
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
            self._hand_over()
            for bot in list(self._bots):
                bot.close()
            log.info("the model gateway ends", running=self._gateway.running)
            self._finishing = asyncio.create_task(self._gateway.finish())
            await asyncio.wait({self._finishing})
        finally:
            ending.cancel()
            watching.cancel()
            watched, _ = await asyncio.gather(watching, ending, return_exceptions=True)
            await self._gateway.aclose()
            self._gateway.usage.keep()  # with what has ended since the successor began
        if isinstance(watched, Exception):
            raise watched

    def _terminate(self) -> None:
        self._end.set()
        asyncio.get_running_loop().call_later(_TERM_SECONDS, self._cut)

    def _cut(self) -> None:
        if self._finishing is not None:
            self._finishing.cancel()

    def _hand_over(self) -> None:
        """Nothing listens after this, and a successor may have the lock. Idempotent."""
        if self._control is None:
            return
        self._gateway.shut()
        self._control.close()
        self._control = None
        if self._is_ours():
            self._gateway.usage.keep()
            (self._directory / SOCKET).unlink(missing_ok=True)
        os.close(self._lock)

    def _is_ours(self) -> bool:
        """Whether the lock that we hold is the one that others find: a share directory may be gone, or made anew."""
        held = os.fstat(self._lock)
        return sockets.place(self._directory, LOCK) == (held.st_dev, held.st_ino)

    # The control socket

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._bots.add(writer)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._obey(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError, AttributeError):
            pass  # it has gone, or is no bot: a line without end, or not a JSON object
        finally:
            self._bots.discard(writer)
            self._changed = time.monotonic()
            writer.close()

    def _tell(self, kind: str, **fields: Any) -> None:
        """To every bot; one that does not read is left out, since nothing may pile up for it."""
        line = json.dumps({"event": kind, **fields}).encode() + b"\n"
        for bot in self._bots:
            if bot.transport.get_write_buffer_size() < _UNREAD:
                bot.write(line)

    async def _obey(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        try:
            async with self._one_at_a_time:
                answer = await self._answer(request["do"], request)
        except OSError as e:
            answer = {"error": e.strerror or str(e), "errno": e.errno}
        except (ValueError, KeyError, TypeError) as e:
            answer = {"error": f"not understood ({type(e).__name__})"}  # the request may hold a credential
        except Exception as e:  # the connection would break, and a bot tries again what broke it
            log.exception("an order failed", order=str(request.get("do"))[:20])
            answer = {"error": f"it failed ({type(e).__name__})"}
        return {"id": request.get("id"), **answer}

    async def _answer(self, do: str, request: Mapping[str, Any]) -> dict[str, Any]:
        match do:
            case "hello":
                await self._greet(request)
                return self._state()
            case "doors":
                gateway = self._gateway
                counted = {"running": gateway.running, "answers": gateway.model.answers, "egress": self._egress.state()}
                return self._state() | counted
            case "open":
                await self._gateway.open(
                    request["name"], Path(request["run_dir"]), request.get("worklet_id"), request.get("grants")
                )
            case "grant":
                await self._gateway.regrant(request["name"], request["subject"], request["value"], request["was"])
            case "usage":
                usage = self._gateway.usage
                return {"rows": usage.fetch(request["since"], int(request["after"])), "since": usage.since}
            case "limit":
                dollars, spent, usage = request["dollars"], float(request.get("spent", 0.0)), self._gateway.usage
                most, fallback = None if dollars is None else float(dollars), bool(request.get("fallback"))
                usage.limit(request["name"], most, spent, str(request.get("of", "")), fallback=fallback)
            case "close":
                await self._gateway.close(request["name"])
                self._changed = time.monotonic()
            case "shutdown":
                self._hand_over()
                self._end.set()
            case _:
                raise ValueError(do)
        return {}

    async def _greet(self, request: Mapping[str, Any]) -> None:
        if request["version"] in (None, self._version):
            credential = Credential(request["api_key"], request["oauth_token"])
            self._gateway.model.configure(request["base_url"], credential)
            self._store.configure(request["store"])
            await self._egress.configure(request["egress"])
            log.info("a bot is here")

    def _state(self) -> dict[str, Any]:
        doors = {name: str(run_dir) for name, run_dir in self._gateway.doors().items()}
        return {"version": self._version, "pid": os.getpid(), "doors": doors, "worklets": self._gateway.worklets(),
                "grants": self._gateway.grants(), "limits": self._gateway.usage.limits(),
                "since": self._gateway.usage.since}  # fmt: skip

    # The end

    async def _watch(self) -> None:
        """Returns when nobody needs the process any more."""
        while self._control is not None:
            await asyncio.sleep(min(self._empty, EMPTY_SECONDS) / 2)
            if self._control is not None and not self._is_ours():
                log.warning("the share directory is gone")
                return
            running = self._gateway.running or self._store.running
            if not self._bots and not running and await self._is_useless():
                return

    async def _is_useless(self) -> bool:
        for name, run_dir in self._gateway.doors().items():
            there = await self._beyond.is_alive(name)
            if not (await _is_alive(run_dir) if there is None else there):
                async with self._one_at_a_time:
                    if self._bots:  # one that came meanwhile may have opened it for a new worklet
                        return False
                    log.info("its worklet has ended, so its door is closed", worklet=name)
                    await self._gateway.close(name)
                    self._changed = time.monotonic()
        quiet = time.monotonic() - max(
            self._changed, self._gateway.last_request, self._store.last_request, self._egress.last_active
        )
        return not self._bots and quiet > (self._idle if self._gateway.doors() else self._empty)


async def _is_alive(run_dir: Path) -> bool:
    """Whether the worklet's relay listens. It is asked something that it refuses: a bare connection it would report."""
    try:
        with sockets.short_path(run_dir, "relay.sock") as path:
            reader, writer = await asyncio.open_unix_connection(path)
    except BlockingIOError:
        return True  # its queue is full
    except OSError:
        return False
    writer.write(b"GET / HTTP/1.1\r\nHost: worklet\r\nConnection: close\r\n\r\n")
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_ALIVE_SECONDS):
            await reader.read(1)
    writer.close()
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """0 when it ended as it should, also when another process serves already; 1 and a sentence when it cannot serve."""
    parser = argparse.ArgumentParser(prog="python -m worklets.gatewayprocess", description=__doc__)
    parser.add_argument("share_dir", type=Path)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS, help="seconds without a bot and without a request")
    parser.add_argument("--empty", type=float, default=EMPTY_SECONDS, help="seconds without a bot and without a door")
    parser.add_argument("--service", action="store_true", help="wait for a process that serves already; never end")
    args = parser.parse_args(argv)
    if args.service:
        args.idle = args.empty = math.inf
    directory = control_dir(args.share_dir)
    try:
        lock = _acquire(directory, math.inf if args.service else _LOCK_SECONDS)
        if lock is None:
            return 0
        hide()
        _configure_log(directory / LOG)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        async def serve() -> None:
            await GatewayProcess(args.share_dir, lock, idle=args.idle, empty=args.empty).run()

        asyncio.run(serve())
    except OSError as e:
        sys.stderr.write(f"The model gateway cannot serve {directory}: {e}.\n")
        return 1
    return 0


def _acquire(directory: Path, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while (lock := acquire(directory)) is None and time.monotonic() < end:
        time.sleep(0.1)
    return lock


def _configure_log(path: Path) -> None:
    """As the bot's log, into a file that cannot grow for ever."""
    configure("console", stream=sys.stderr)
    root = logging.getLogger()
    formatter = root.handlers[0].formatter
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(formatter)
    root.handlers[:] = [handler]


if __name__ == "__main__":
    sys.exit(main())
