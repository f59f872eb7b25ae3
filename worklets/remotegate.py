"""The gate's container on a remote engine: made, found again, started anew when it is lost. See worklets/gate.

What it needs (program, certificates) is written to its standard input, so neither `docker inspect` nor that machine's
disk has any of it; for the same reason the engine cannot start it anew, and Flow does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worklets.engine import Engine, explanation
from worklets.errors import ImageMissing, RuntimeUnavailable, WorkletError
from worklets.gateaddress import GateAddress, directory, known, make_identity, own_certificate, remember
from worklets.gateclient import GateAway, Way

if TYPE_CHECKING:
    from docker import DockerClient

log = structlog.get_logger(__name__)

_INSIDE = 7443  # worklets/gate/gate.py: PORT
_ROOT = "/work/worklets"
_MODULES = ("framing", "places", "calls", "gate")
#: Takes the modules from standard input and starts the last one. They find each other under their names here.
_BOOT = """
import json, sys, types
told = json.loads(sys.stdin.buffer.read(int(sys.stdin.buffer.readline(20))))
for name in ("worklets", "worklets.gate"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in told["modules"]:
    made = sys.modules["worklets.gate." + name] = types.ModuleType("worklets.gate." + name)
    exec(compile(source, name + ".py", "exec"), made.__dict__)
made.main(told["config"])
"""
_READY_SECONDS = 30.0
_CALL_SECONDS = 60.0
_BEAT_SECONDS = 10.0
_MOST_PAUSE = 15.0
_MEMORY = 1 << 30  # for the calls of 64 worklets of which nothing is read: worklets/gate/calls.py


class RemoteGate:
    """One per program. `host`, `port`: where Flow reaches it; `listen`: the address and port there that it has.

    `name` is the container's and its volume's, `label` names this Flow among others.
    """

    def __init__(
        self,
        share_dir: Path,
        engine: Engine,
        instance: str,
        image: str,
        *,
        host: str,
        port: int,
        listen: tuple[str, int],
    ) -> None:
        self._share_dir, self._engine, self._image = share_dir, engine, image
        self._host, self._port, self._listen = host, port, listen
        self._name, self._label = f"flow-gate-{instance}", {"flow.gate": instance}
        self.way = Way(share_dir)
        self._directory: Path | None = None
        self._brought = False
        self._ensuring = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def ready(self, *, replace: bool = True) -> Path:
        """There is a gate that answers, and will be kept. Where the worklets' directories are on its machine.

        Once a gate that is not just as we would make it is replaced; without `replace` one that answers is left alone.
        Raises WorkletError.
        """
        async with self._ensuring:
            bring = replace and not self._brought
            if bring or self._directory is None:
                self._directory = await self._ensure(replace=bring)
                self._brought = self._brought or bring
            if self._keeping is None:
                self._keeping = asyncio.create_task(self._keep())
            return self._directory

    async def kept(self) -> None:
        """There is our gate, or was one: it may be away for the moment. Raises WorkletError."""
        if not self._brought:
            await self.ready()

    def look(self) -> None:
        """Somebody could not reach it."""
        self._news.set()

    async def aclose(self) -> None:
        """The gate goes on."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    # -- one task keeps it ----------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                await self._watch()
            except GateAway as error:
                log.warning("the remote engine's gate is lost", reason=str(error))
            self._directory = None
            while True:
                try:
                    async with self._ensuring:
                        self._directory = await self._ensure(replace=False)
                except Exception as error:  # noqa: BLE001 - whatever it is, nothing reaches worklets without a gate
                    if failures == 0:
                        log.warning("the remote engine's gate cannot be started, and is tried again", reason=str(error))
                    failures += 1
                    await asyncio.sleep(min(_MOST_PAUSE, 0.25 * 2 ** min(failures, 10)))
                else:
                    failures = 0
                    break

    async def _watch(self) -> None:
        """Raises GateAway when it does not answer any more."""
        stream = await self.way.open()
        try:
            while True:
                await self.way.ask(stream, _BEAT_SECONDS, do="ping")
                self._news.clear()
                told, ended = asyncio.create_task(self._news.wait()), asyncio.create_task(stream[0].read(1))
                await asyncio.wait({told, ended}, timeout=_BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
                if ended.done():
                    raise GateAway("The connection to the remote engine's gate has ended.") from ended.exception()
                ended.cancel()
                await asyncio.gather(told, ended, return_exceptions=True)
        finally:
            stream[1].close()

    # -- making it ------------------------------------------------------------------------------------------------

    async def _ensure(self, *, replace: bool) -> Path:
        """Raises WorkletError."""
        return await self._engine.call("start", lambda client: self._ensure_now(client, replace), timeout=_CALL_SECONDS)

    def _ensure_now(self, client: DockerClient, replace: bool) -> Path:
        """Of several Flows, of several versions, each brings its own gate once, and from then on takes what is there.

        Else they would take it from each other without end, with all streams of all worklets.
        """
        with _alone(self._share_dir):
            trusted = own_certificate(self._share_dir)
            place = self._place(client)
            told = self._told(client, trusted)
            address = known(self._share_dir)
            if address is None or (replace and not self._is_ours(address, told)) or not self._answers(address):
                self._start(client, told)
            return place / Path(_ROOT).name

    def _is_ours(self, address: GateAddress, told: dict[str, Any]) -> bool:
        wanted = (self._host, self._port, told["config"]["version"])
        return (address.host, address.port, address.version) == wanted

    def _answers(self, address: GateAddress) -> bool:
        try:
            return bool(self.way.call(do="ping")[0]["version"] == address.version)
        except WorkletError:
            return False

    def _place(self, client: DockerClient) -> Path:
        """The volume with the worklets' directories, as the engine's machine sees it."""
        made = client.api.create_volume(self._name, labels=self._label)  # one that is there stays
        return Path(made["Mountpoint"])

    def _told(self, client: DockerClient, trusted: str) -> dict[str, Any]:
        from docker.errors import ImageNotFound

        try:
            image = client.images.get(self._image).id
        except ImageNotFound as e:
            raise ImageMissing(f"The worklet image {self._image} is missing.") from e
        here = Path(__file__).parent / "gate"
        modules = [(name, (here / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
        what = [modules, _BOOT, trusted, image, self._listen, self._config(str(image), "")]
        version = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        return {
            "modules": modules,
            "config": {"version": version, "trusted": trusted, "root": _ROOT},
            "image": str(image),
        }

    def _start(self, client: DockerClient, told: dict[str, Any]) -> None:
        """A new one, with a new certificate, in place of what is there."""
        from docker.errors import APIError, NotFound

        certificate, key = make_identity("gate")
        with contextlib.suppress(NotFound):
            client.api.remove_container(self._name, force=True)
        version = told["config"]["version"]
        config = self._config(told["image"], version)
        try:
            made = client.api.create_container_from_config(config, name=self._name)["Id"]  # type: ignore[no-untyped-call]
            stdin = client.api.attach_socket(made, params={"stdin": 1, "stream": 1})
            client.api.start(made)
        except APIError as e:
            raise RuntimeUnavailable(
                f"The gate cannot be started on the remote engine: {explanation(e)}",
                suggestion="Where its port is taken, choose another one with FLOW_GATE_PORT.",
            ) from e
        blob = json.dumps(
            {"modules": told["modules"], "config": {**told["config"], "identity": certificate + key}}
        ).encode()
        with _socket_of(stdin) as connection:
            connection.sendall(b"%d\n%s" % (len(blob), blob))
            remember(self._share_dir, GateAddress(self._host, self._port, certificate, made, version))
            self._wait(client, made)
        log.info("the gate runs on the remote engine", container=made[:12], address=f"{self._host}:{self._port}")

    def _wait(self, client: DockerClient, container: str) -> None:
        end = time.monotonic() + _READY_SECONDS
        while True:
            try:
                self.way.call(do="ping")
            except WorkletError as error:
                state = client.api.inspect_container(container)["State"]
                if not state["Running"]:
                    said = client.api.logs(container, tail=3).decode(errors="replace").strip()
                    raise RuntimeUnavailable(f"The gate ended as soon as it had started: {said}.") from error
                if time.monotonic() > end:
                    raise RuntimeUnavailable(str(error), suggestion=error.suggestion) from error
            else:
                return
            time.sleep(0.05)

    def _config(self, image: str, version: str) -> dict[str, Any]:
        """As Docker Engine's API has it: a worklet with a network, for its one port."""
        address, port = self._listen
        return {
            "Image": image, "Entrypoint": ["/usr/bin/python3", "-I", "-c", _BOOT], "Cmd": [], "User": "1000:1000",
            "WorkingDir": "/", "Hostname": "gate", "OpenStdin": True, "StdinOnce": True, "AttachStdin": True,
            "StopSignal": "SIGTERM", "ExposedPorts": {f"{_INSIDE}/tcp": {}},
            "Labels": {**self._label, "flow.version": version},
            "HostConfig": {
                "NetworkMode": "bridge", "ReadonlyRootfs": True, "CapDrop": ["ALL"], "Init": True,
                "SecurityOpt": ["no-new-privileges"], "Memory": _MEMORY, "MemorySwap": _MEMORY, "PidsLimit": 128,
                "PortBindings": {f"{_INSIDE}/tcp": [{"HostIp": address, "HostPort": str(port)}]},
                # The engine gives a new volume the owner of the image's own directory there: the agent's user.
                "Mounts": [{"Type": "volume", "Source": self._name, "Target": "/work"}],
                "Ulimits": [{"Name": "nofile", "Soft": 16384, "Hard": 16384}, {"Name": "core", "Soft": 0, "Hard": 0}],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
                "RestartPolicy": {"Name": "no"},
            },
        }  # fmt: skip


@contextlib.contextmanager
def _socket_of(stdin: Any) -> Iterator[Any]:
    """docker-py gives the socket itself over TLS, else a `SocketIO` around it, which does not close it."""
    connection = getattr(stdin, "_sock", stdin)
    try:
        yield connection
    finally:
        stdin.close()
        connection.close()


@contextlib.contextmanager
def _alone(share_dir: Path) -> Iterator[None]:
    """Of several Flows on one share directory one makes the gate, and the others find it. Raises WorkletError."""
    path = directory(share_dir)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WorkletError(
            f"Flow cannot write into {path}: {error.strerror or error}.",
            suggestion="Check the rights of FLOW_SHARE_DIR.",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
