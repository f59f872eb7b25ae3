"""The Docker engine behind bounded threads: docker-py blocks, Flow does not.

Each kind of call has a small pool of its own, so that a slow start never holds up a query, and removals go
one at a time (Engine 20.10, which Debian 12 ships, can lock up on parallel ones). The event loop's default
pool is never used: name lookups live there. docker-py is imported at the first call, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from worklets.errors import RuntimeUnavailable, WorkletError
from worklets.turns import Turns

if TYPE_CHECKING:
    from docker import DockerClient

T = TypeVar("T")
Pool = Literal["start", "copy", "stop", "remove", "query", "build", "probe", "stream"]

#: An engine starts so many a second and no more: beyond this, each start takes longer and none is done earlier.
_STARTS = max(2, min(8, 2 * (os.cpu_count() or 1)))
#: An engine that hangs keeps a probe's thread for a minute: not one that sessions need.
#: Repositories, forks and files take minutes: nobody's start waits for them.
_SIZES: dict[Pool, int] = {
    "start": _STARTS, "copy": 2, "stop": 4, "remove": 1, "query": 4, "build": 1, "probe": 1, "stream": 1,
}  # fmt: skip
_LONG = ("build", "stream")  # may be silent for minutes
DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class EngineAt:
    """An engine's address as in DOCKER_HOST; None is the local socket. `certificates` as in DOCKER_CERT_PATH."""

    host: str | None = None
    certificates: Path | None = None


class Engine:
    """One Docker engine. `at`: its address alone where it needs no certificates; None is the local socket."""

    def __init__(self, at: EngineAt | str | None = None, timeout: float = 60.0) -> None:
        self.at = at if isinstance(at, EngineAt) else EngineAt(at)
        self.host = self.at.host or DEFAULT_HOST
        self.calls, self.failures = Counter[Pool](), Counter[Pool]()  # since the start; it did not answer, or refused
        self._timeout = timeout
        self._pools: dict[Pool, ThreadPoolExecutor] = {}
        self._client: DockerClient | None = None
        self._connecting = asyncio.Lock()
        self._starts = Turns(_STARTS)

    async def call(
        self, pool: Pool, work: Callable[[DockerClient], T], timeout: float | None = None, *, last: bool = False
    ) -> T:
        """The result of `work(client)`, run in a thread of `pool`; a start for which nobody waits comes `last`.

        Raises RuntimeUnavailable when the engine is away or silent for `timeout` seconds, WorkletError with its
        reason when it refuses (`work` sees docker's own `APIError` first), and whatever `work` raises.
        """
        self.calls[pool] += 1
        try:
            return await self._call(pool, work, timeout, last)
        except WorkletError:
            self.failures[pool] += 1
            raise

    async def _call(self, pool: Pool, work: Callable[[DockerClient], T], timeout: float | None, last: bool) -> T:
        try:
            async with asyncio.timeout(timeout or self._timeout):
                client = await self._connected()
                async with self._starts.turn(last=last) if pool == "start" else contextlib.nullcontext():
                    return await self._run(pool, lambda: self._ask(client, work))
        except TimeoutError as e:
            raise RuntimeUnavailable(
                f"The Docker engine did not answer within {timeout or self._timeout:.0f} s."
            ) from e
        except Exception as e:
            if (worded := _worded(e, self.host)) is None:
                raise
            raise worded from e

    async def run(self, work: Callable[[], T]) -> T:
        """`work()` in one of the query threads: for the disk work that belongs to a container."""
        return await self._run("query", work)

    async def close(self) -> None:
        """Closes the connections; a thread that still waits for the engine is left to its own timeout."""
        for executor in self._pools.values():
            executor.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, client: DockerClient, work: Callable[[DockerClient], T]) -> T:
        try:
            _knock(self.host)
        except OSError as e:
            raise _away(e, self.host) from e
        return work(client)

    async def _run(self, pool: Pool, work: Callable[[], T]) -> T:
        if pool in _LONG:
            return await _in_daemon(work)
        if pool not in self._pools:
            self._pools[pool] = ThreadPoolExecutor(_SIZES[pool], thread_name_prefix=f"docker-{pool}")
        return await asyncio.get_running_loop().run_in_executor(self._pools[pool], work)

    async def _connected(self) -> DockerClient:
        async with self._connecting:
            if self._client is None:
                self._client = await self._run("query", lambda: _connect(self.at, self._timeout))
            return self._client


async def _in_daemon(work: Callable[[], T]) -> T:
    """`work()` in a thread that does not hold up the program's end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as e:  # noqa: BLE001 - it is raised where it is awaited
            error = e
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="docker-long", daemon=True).start()
    return await done


def _knock(host: str) -> None:
    """Raises OSError when nobody listens at a local `host`. docker-py leaves a socket open for every failed try."""
    if host.startswith("unix://"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(10)
            probe.connect(host.removeprefix("unix://"))


def _connect(at: EngineAt, timeout: float) -> DockerClient:
    """A client that speaks the engine's own API version and ignores the machine's proxy variables."""
    import docker

    host, tls = at.host or DEFAULT_HOST, _tls(at)

    def client(version: str) -> DockerClient:
        made = docker.DockerClient(
            base_url=host,
            version=version,
            tls=tls,
            timeout=math.ceil(timeout),
            max_pool_size=sum(_SIZES.values()),
            use_ssh_client=False,
        )
        made.api.trust_env = False  # else HTTP_PROXY and REQUESTS_CA_BUNDLE come between us and the engine
        return made

    try:
        _knock(host)
    except OSError as e:
        raise _away(e, host) from e
    # Naming a version keeps the constructor from calling the engine before trust_env is off.
    first = client("1.41")
    try:
        version: str = first.api.version(api_version=False)["ApiVersion"]
    finally:
        first.close()
    return client(version)


def _tls(at: EngineAt) -> Any:
    """Raises RuntimeUnavailable."""
    if at.certificates is None or not (at.host or "").startswith("tcp://"):
        return False
    from docker.errors import TLSParameterError
    from docker.tls import TLSConfig

    ca, cert, key = (str(at.certificates / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    try:
        return TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=True)
    except TLSParameterError as e:
        raise RuntimeUnavailable(
            f"The engine's certificates cannot be read in {at.certificates}.",
            suggestion="Put ca.pem, cert.pem and key.pem there, or correct DOCKER_CERT_PATH.",
        ) from e


def _away(error: OSError, host: str) -> RuntimeUnavailable:
    if isinstance(error, PermissionError):
        return RuntimeUnavailable(
            f"This user may not use the Docker engine at {host}.",
            suggestion="Add the user to the docker group, log in again, then run `flow doctor`.",
        )
    return RuntimeUnavailable(f"No Docker engine answers at {host}.")


def _worded(error: Exception, host: str) -> WorkletError | None:
    """What an error of docker-py means for people; None for any other."""
    import requests.exceptions
    from docker.errors import APIError, DockerException

    if isinstance(error, requests.exceptions.Timeout):
        return RuntimeUnavailable(f"The Docker engine at {host} did not answer in time.")
    if isinstance(error, APIError):
        return WorkletError(f"The Docker engine refused: {explanation(error)}", suggestion="Run `flow doctor`.")
    if isinstance(error, DockerException):
        return WorkletError(
            f"Docker's client refused: {explanation(error)}", suggestion="Check FLOW_IMAGE and DOCKER_HOST."
        )
    if isinstance(error, requests.exceptions.RequestException):
        return RuntimeUnavailable(f"No Docker engine answers at {host}.")
    return None


def explanation(error: Any) -> str:
    """The engine's own reason in an APIError, as one sentence."""
    text = str(getattr(error, "explanation", None) or error).strip().splitlines()[0]
    return text[:1].upper() + text[1:].rstrip(".") + "."
