"""Connections to hosts outside: a name is resolved once, and exactly the addresses that were checked are dialled.

Nothing resolves the name a second time, so an answer that changes between check and connection (DNS rebinding) has
no effect.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeAlias

from worklets.egress import is_public
from worklets.egressnetworks import Neighbours, Network, contains

CONNECT_SECONDS = 10.0
_ADDRESSES = 6  # of one host that are tried
_LOOKED_AT = 32  # of one host's: a name server may answer thousands, and looking takes a system call each
_LOOKUPS = 64  # at the same time: a dead name server holds each for half a minute
_FIRST = 1024  # beside these, one of each worklet's
LOOKUPS_OF_ONE = 4  # of one worklet, so that it does not take all
_LIMIT = 1 << 16
_INWARD = "its address is not one of the public internet, or is in this machine's own network"
_DENIED = "Flow's administrator has denied the network it is in (FLOW_EGRESS_DENY_NETWORKS)"

Resolve: TypeAlias = Callable[[str], Sequence[str]]
Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_NEIGHBOURS = Neighbours()


class Undialled(Exception):
    """No connection: `status` is the one for the worklet, the text a clause about the host."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def resolve(host: str) -> list[str]:
    """Its addresses, in the system's order of preference. Blocks. Raises OSError.

    The dot at the end keeps a search list of the machine's resolver out.
    """
    found = socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_outside(address: str, neighbours: Container[str] = _NEIGHBOURS) -> bool:
    """Whether it is public, and neither this machine's own nor a neighbour's: firewalls guard those from others only.

    The kernel chooses an own address as the source towards itself; nothing is sent.
    """
    if not is_public(address) or address in neighbours:
        return False
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:  # OSError: there is no way there
        probe.connect((address, 9))
        return bool(probe.getsockname()[0] != address)
    return True


class Lookups:
    """The places of one worklet. `first`: it has one under way that others' cannot hold up."""

    def __init__(self) -> None:
        self.places, self.first = asyncio.Semaphore(LOOKUPS_OF_ONE), False


class Dialer:
    """`resolve` runs in threads. `permits` says of an address whether it may be dialled. Times in seconds."""

    def __init__(
        self,
        resolve: Resolve = resolve,
        permits: Callable[[str], bool] = is_outside,
        *,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._resolve, self._permits, self._seconds = resolve, permits, connect_seconds
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="egress-lookup")
        self._firsts = ThreadPoolExecutor(_FIRST, thread_name_prefix="egress-first-lookup")

    async def dial(self, host: str, port: int, lookups: Lookups, denied: Sequence[Network] = ()) -> Connection:
        """A connection to that port of one of the host's addresses, none of them in `denied`. Raises Undialled."""
        try:
            async with asyncio.timeout(self._seconds):
                found = await self._look_up(host, lookups)
        except TimeoutError:
            raise Undialled(504, "its address was not found in time") from None
        except (OSError, UnicodeError) as e:
            why = getattr(e, "strerror", None) or e
            raise Undialled(
                502, f"it has no address ({why}); check its name, and whether Flow's machine can look names up"
            ) from e
        return await self._connect(self._permitted(found, denied), port)

    def _permitted(self, found: Sequence[str], denied: Sequence[Network]) -> list[str]:
        """The first few that may be dialled. Raises Undialled."""
        addresses, reason = [], _INWARD
        for address in found[:_LOOKED_AT]:
            if self._permits(address):
                if contains(denied, address):
                    reason = _DENIED
                else:
                    addresses.append(address)
            if len(addresses) == _ADDRESSES:
                break
        if not addresses:
            raise Undialled(403, reason)
        return addresses

    async def _look_up(self, host: str, lookups: Lookups) -> Sequence[str]:
        """The place is given back when the thread is free, not when somebody no longer waits for it."""
        await lookups.places.acquire()
        loop, first = asyncio.get_running_loop(), not lookups.first
        lookups.first = True

        def give_back() -> None:
            lookups.places.release()
            if first:
                lookups.first = False

        def done(_: Future[Sequence[str]]) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(give_back)

        looking = (self._firsts if first else self._threads).submit(self._resolve, host)
        looking.add_done_callback(done)
        return await asyncio.wrap_future(looking)

    async def _connect(self, addresses: Sequence[str], port: int) -> Connection:
        """The time is shared out, so that a dead first address leaves some to the next."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        failed = Undialled(502, "it cannot be reached")
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                async with asyncio.timeout((end - loop.time()) / left):
                    made = await asyncio.open_connection(address, port, limit=_LIMIT)
                # A host that has vanished without a word must not keep its place for good.
                made[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return made
            except TimeoutError:
                failed = Undialled(504, "it did not answer in time")
            except OSError as e:
                failed = Undialled(502, f"it cannot be reached ({e.strerror or e})")
        raise failed

    def close(self) -> None:
        """Lookups on their way end by themselves."""
        for threads in (self._threads, self._firsts):
            threads.shutdown(wait=False, cancel_futures=True)
