"""The relay: keeps the Claude CLI running inside a worklet, whether or not Flow is there to listen.

    python -I relay.py <run_dir>

`<run_dir>/spec.json` says what to start: `command`, `env`, `token`, `cwd`, `home`, `disk` where that is limited, and
with `egress` that there is a proxy to the outside; `shared`: the control group is not the worklet's own; `sealed`:
Claude is not started without the filter of system calls (seccomp.py). It is removed once read.
The CLI is started before anything slow is imported: it takes a third of a second to load, and that is
when this process loads its own libraries.
"""

from __future__ import annotations

import contextlib
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
    from collections.abc import AsyncIterator, Callable

    from worklets.relay.bridge import Bridge
    from worklets.relay.door import Door
    from worklets.relay.forward import Traffic
    from worklets.relay.process import Process
    from worklets.relay.stats import Meter

_PR_SET_DUMPABLE = 4
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_LINGER = 60.0  # seconds that the exit record is kept for an app that is away
_START_SECONDS = 20.0
_LAST_WORDS = 1.0  # the same after SIGTERM: whoever sent it is waiting


class Child:
    """The CLI process and our end of its stdin and stdout; or why it could not be started."""

    def __init__(self, stdio: socket.socket, process: subprocess.Popen[bytes] | None, error: str = "") -> None:
        # Not a dataclass: importing those would hold up the start by 10 ms.
        self.stdio, self.process, self.error = stdio, process, error


def start(spec: dict[str, Any], port: int, proxy: int | None = None) -> Child:
    """Starts the CLI in a session of its own.

    Its stdin and stdout are one socketpair, not pipes: a tool process under the same uid could open
    `/proc/<cli>/fd/0` of a pipe and write control messages there; for a socket the kernel refuses that.
    `port` leads to the gateway, `proxy` to the forward proxy, both on loopback.
    """
    env = _environment(spec, port, proxy)
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


def _environment(spec: dict[str, Any], port: int, proxy: int | None) -> dict[str, str]:
    gateway = f"http://127.0.0.1:{port}"
    given = {name: value.replace("@flow-gateway@", gateway) for name, value in spec["env"].items()}
    env = {**os.environ, **given, "HOME": spec["home"], "GIT_CONFIG_SYSTEM": str(Path.cwd() / "gitconfig")}
    env["ANTHROPIC_BASE_URL"] = env["FLOW_KV_URL"] = gateway
    env["FLOW_KV_TOKEN_FILE"] = str(Path.cwd() / "kv.token")
    if proxy is not None:
        env |= _proxied(proxy)
    env.pop("CLAUDECODE", None)  # inherited, it makes the CLI believe that it runs inside itself
    return env


def _proxied(port: int) -> dict[str, str]:
    """What git, curl, pip, npm, apt and Node.js (from 22.21 and 24.5 on) go by. The gateway is reached without it."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    env = dict.fromkeys(names, f"http://127.0.0.1:{port}")
    return {**env, **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"), "NODE_USE_ENV_PROXY": "1"}


def hide() -> None:
    """No other process of this uid may read our memory or file descriptors, where the token is."""
    import _ctypes  # the part that is in C: the rest takes 3 ms to import, and Claude waits for it

    calls: Any = _ctypes
    prctl = calls.dlsym(calls.dlopen(None, 0), "prctl")
    if calls.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0)):
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


async def run(
    bridge: Bridge,
    door: Door,
    listener: socket.socket,
    proxy: socket.socket | None,
    disk: dict[str, Any] | None,
    traffic: Traffic,
    meter: Meter,
) -> None:
    """Serves until the process has ended and the app knows, or has had its time to.

    `disk`: `paths` whose files, with all that is on the disks `volumes`, may take `limit` bytes; beyond that the
    process is ended. It is also when `volumes` grow while the disk of `paths`, which they take up, has less than
    `floor` bytes left.
    """
    import asyncio

    from forward import AWAY, forward  # type: ignore[import-not-found]
    from orphans import collect_orphans  # type: ignore[import-not-found]
    from websockets.asyncio.server import serve

    loop, told_to_stop = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        told_to_stop.set()
        bridge.process.signal(signal.SIGTERM)
        loop.call_later(_GRACE, lambda: bridge.process.signal(signal.SIGKILL))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if os.getpid() == 1:  # in a container, that is
        collect_orphans(lambda: {bridge.process.awaited})
    _remove("relay.sock")
    await bridge.process.open()
    beside = [asyncio.create_task(forward(listener, "gateway.sock", traffic=traffic))]
    if proxy is not None:
        beside.append(asyncio.create_task(forward(proxy, "proxy.sock", AWAY, traffic)))
    if disk:
        beside.append(asyncio.create_task(_watch(bridge, disk, stop, meter)))
    if not meter.shared:
        beside.append(asyncio.create_task(_watch_scarcity(bridge)))
    async with serve(
        door.serve,
        unix=True,
        path="relay.sock",
        process_request=door.greet,
        process_response=door.prove,
        compression=None,
        max_size=64 << 20,
        close_timeout=2,
        server_header=None,
    ):
        _open_to_all("relay.sock")
        linger = list[asyncio.Task[None]]()
        if await outlived(bridge, told_to_stop):
            linger += map(asyncio.create_task, (bridge.process.acknowledged(), _last_words(told_to_stop, bridge)))
            await asyncio.wait(linger, timeout=_LINGER, return_when=asyncio.FIRST_COMPLETED)
        for task in (*linger, *beside):
            task.cancel()
        await asyncio.gather(*linger, *beside, return_exceptions=True)
    _remove("relay.sock")


async def outlived(bridge: Bridge, told_to_stop: asyncio.Event, patience: float = _LINGER) -> bool:
    """Returns when the process has ended, and the next ones have.

    False: so long after we were told to stop its exit could not be written, since the disk is full.
    """
    import asyncio

    async def live() -> None:
        await bridge.process.run()
        while bridge.resting and await bridge.woken(told_to_stop):
            await bridge.process.run()

    async def lose_patience() -> None:
        await told_to_stop.wait()
        await asyncio.sleep(patience)

    living, losing = asyncio.create_task(live()), asyncio.create_task(lose_patience())
    await asyncio.wait([living, losing], return_when=asyncio.FIRST_COMPLETED)
    for task in (living, losing):
        task.cancel()
    await asyncio.wait([living, losing])
    if living.cancelled():
        return False
    living.result()
    return True


async def _watch(bridge: Bridge, disk: dict[str, Any], stop: Callable[[], None], meter: Meter) -> None:
    import asyncio

    from disk import Watch, counter, free, measure, used  # type: ignore[import-not-found]
    from process import say  # type: ignore[import-not-found]

    limit, paths, volumes = disk["limit"], disk["paths"], disk.get("volumes", [])

    async def tell(used: int, full: bool, measured: bool, crowded: bool = False) -> None:
        # The journal may wait for room, and there may never be any: what fills the disk has to end then too.
        line = {"type": "relay_disk", "used": used, "limit": limit, "full": full, "measured": measured}
        line |= {"crowded": True} if crowded else {}
        told = asyncio.create_task(bridge.process.tell(line))
        telling.add(told)
        await asyncio.wait([told], timeout=_LAST_WORDS)

    telling: set[asyncio.Task[None]] = set()
    try:
        meter.watch = Watch(
            limit,
            tell,
            measure=lambda patience: measure(paths, volumes, patience),
            counter=lambda: counter([*paths, *volumes]),
            say=say,
            floor=disk.get("floor", 0),
            free=lambda: free(paths),
            own=lambda: used(volumes),
            crowd=(lambda own: tell(own, True, True, True)) if disk.get("floor") else None,
        )
        await meter.watch.run()
        stop()  # also when Flow is away: what goes on writing ends with the container
        await asyncio.gather(*telling)
    finally:
        for told in telling:
            told.cancel()


async def _watch_scarcity(bridge: Bridge) -> None:
    from process import say
    from scarcity import watch  # type: ignore[import-not-found]
    from stats import CGROUP, used  # type: ignore[import-not-found]

    await watch(lambda line: bridge.process.tell(line), say, used, CGROUP)


async def _last_words(told_to_stop: asyncio.Event, bridge: Bridge) -> None:
    import asyncio

    await told_to_stop.wait()
    if bridge.owned:
        await asyncio.sleep(_LAST_WORDS)


def _open_to_all(name: str) -> None:
    """Flow may run under another uid; the directory and the token guard the socket."""
    Path(name).chmod(0o666)


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _remove(name: str) -> None:
    Path(name).unlink(missing_ok=True)


def _seal() -> None:
    """Flow shows what is printed here in the thread: "The worklet ended as soon as it had started: …"."""
    from seccomp import NoFilter, restrict  # type: ignore[import-not-found]

    try:
        restrict()
    except NoFilter as why:
        sys.exit(f"the filter of system calls cannot be set ({why}). An administrator finds more with `flow doctor`")


def _beside(spec: dict[str, Any], ports: list[int]) -> dict[str, str]:
    """The environment of servers that people visit: they are not Claude."""
    env = _environment(spec, ports[0], ports[1] if len(ports) > 1 else None)
    env.pop("ANTHROPIC_API_KEY", None)
    return env


@contextlib.asynccontextmanager
async def _reachable(spec: dict[str, Any], env: dict[str, str], ports: list[int]) -> AsyncIterator[None]:
    """Lets Flow reach servers that run inside, where inside is a machine of its own. `ports` lead nowhere for it."""
    if not spec.get("sealed"):
        yield
        return
    import asyncio

    from inside import SOCKET, serve  # type: ignore[import-not-found]

    log = Path(spec["home"]) / ".flow" / "started.log"
    serving = asyncio.create_task(serve(frozenset(ports), env, spec["cwd"], log))
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        _remove(SOCKET)


def main(run_dir: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until the loop runs: a first process has no defaults
    os.chdir(run_dir)
    spec_path = Path("spec.json")
    spec = json.loads(spec_path.read_bytes())
    spec_path.unlink()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    proxy = socket.create_server(("127.0.0.1", 0), backlog=1024) if spec.get("egress") else None
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # `python -I` leaves the script's folder out
    if spec.get("sealed"):
        _seal()
    hide()  # before anything runs that could look
    child = start(spec, listener.getsockname()[1], proxy.getsockname()[1] if proxy else None)

    import asyncio
    import secrets

    from aside import aside  # type: ignore[import-not-found]
    from bridge import Bridge  # type: ignore[import-not-found]
    from door import Door  # type: ignore[import-not-found]
    from forward import Traffic
    from journal import Journal  # type: ignore[import-not-found]
    from process import Process
    from stats import Meter

    ports = [made.getsockname()[1] for made in (listener, proxy) if made is not None]
    beside = _beside(spec, ports)

    def recorded(child: Child) -> Process:
        return Process(child, Journal(Path("journal"), secrets.token_hex(8)))

    async def renew(command: list[str], env: dict[str, str]) -> Process:
        again = {**spec, "command": command, "env": {**spec["env"], **env}}
        beside.clear()
        beside.update(_beside(again, ports))
        return recorded(await aside(lambda: start(again, *ports), _START_SECONDS))

    async def serve() -> None:
        traffic, disk = Traffic(), spec.get("disk")
        meter = Meter(traffic, shared=bool(spec.get("shared")), disk_limit=disk["limit"] if disk else None)
        bridge = Bridge(recorded(child), meter.read, renew)
        try:
            async with _reachable(spec, beside, ports):
                await run(bridge, Door(spec["token"], bridge.serve), listener, proxy, disk, traffic, meter)
        finally:
            bridge.process.journal.close()

    asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1])
