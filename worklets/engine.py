"""The Docker engine behind bounded threads: docker-py blocks, Flow does not.

Each kind of call has a small pool of its own, so that a slow start never holds up a query, and removals go
one at a time (Engine 20.10, which Debian 12 ships, can lock up on parallel ones). The event loop's default
pool is never used: name lookups live there. docker-py is imported at the first call, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from worklets.errors import RuntimeUnavailable, WorkletError

if TYPE_CHECKING:
    from docker import DockerClient

T = TypeVar("T")
Pool = Literal["start", "stop", "remove", "query", "build"]

_SIZES: dict[Pool, int] = {"start": 4, "stop": 4, "remove": 1, "query": 4, "build": 1}
DEFAULT_HOST = "unix:///var/run/docker.sock"


class Engine:
    """One Docker engine. `host` as in DOCKER_HOST; None is the local socket."""

    def __init__(self, host: str | None = None, timeout: float = 60.0) -> None:
        self.host = host or DEFAULT_HOST
        self._timeout = timeout
        self._pools: dict[Pool, ThreadPoolExecutor] = {}
        self._client: DockerClient | None = None
        self._connecting = asyncio.Lock()

    async def call(self, pool: Pool, work: Callable[[DockerClient], T], timeout: float | None = None) -> T:
        """The result of `work(client)`, run in a thread of `pool`.

        Raises RuntimeUnavailable when the engine is away or silent for `timeout` seconds, WorkletError with its
        reason when it refuses (`work` sees docker's own `APIError` first), and whatever `work` raises.
        """
        try:
            async with asyncio.timeout(timeout or self._timeout):
                client = await self._connected()
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
        if pool not in self._pools:
            self._pools[pool] = ThreadPoolExecutor(_SIZES[pool], thread_name_prefix=f"docker-{pool}")
        return await asyncio.get_running_loop().run_in_executor(self._pools[pool], work)

    async def _connected(self) -> DockerClient:
        async with self._connecting:
            if self._client is None:
                self._client = await self._run("query", lambda: _connect(self.host, self._timeout))
            return self._client


def _knock(host: str) -> None:
    """Raises OSError when nobody listens at a local `host`. docker-py leaves a socket open for every failed try."""
    if host.startswith("unix://"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(10)
            probe.connect(host.removeprefix("unix://"))


def _connect(host: str, timeout: float) -> DockerClient:
    """A client that speaks the engine's own API version and ignores the machine's proxy variables."""
    import docker

    def client(version: str) -> DockerClient:
        made = docker.DockerClient(
            base_url=host,
            version=version,
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
