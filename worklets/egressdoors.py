"""All worklets' ways out: which have one, and what holds for them."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from worklets.egress import EgressPolicy
from worklets.egressdial import Dialer
from worklets.egressproxy import MOST_IN_ALL, EgressDoor, Tally
from worklets.gatewayroutes import Tell

_FINISH_SECONDS = 900.0  # what connections have left when another process has taken over

log = structlog.get_logger(__name__)


class Egress:
    """One per process. Until `configure` says otherwise nothing leads out."""

    def __init__(self, dialer: Dialer | None = None, tell: Tell = lambda _kind, **_fields: None) -> None:
        """`tell`: what the bots should know, see `worklets.egressasking`."""
        self._dialer, self._tell = dialer or Dialer(), tell
        self._policy = EgressPolicy()
        self._policies: dict[str, EgressPolicy] = {}  # of each worklet
        self._grants: dict[str, Mapping[str, Any] | None] = {}
        self._worklets: dict[str, Path] = {}
        self._doors: dict[str, EgressDoor] = {}
        self._tally = Tally(most=_most())
        self._last = 0.0

    async def configure(self, told: Mapping[str, Any] | None) -> None:
        """`told` as `egress.told` made it. What is no longer allowed is cut off. Raises ValueError, KeyError."""
        policy = EgressPolicy.of(told)
        if policy == self._policy:
            return
        self._policy = policy
        log.info("what worklets may reach outside", mode=policy.mode, hosts=", ".join(map(str, policy.allow)) or None)
        for name, run_dir in list(self._worklets.items()):
            try:
                await self.open(name, run_dir, self._grants[name])
            except OSError as error:
                log.warning("a worklet's way out cannot be opened", worklet=name, error=str(error))

    async def open(self, name: str, run_dir: Path, grant: Mapping[str, Any] | None = None) -> None:
        """Listens at `run_dir/proxy.sock` where the mode is not none. Raises OSError.

        `grant`: what holds for this worklet alone (`worklets.egressgrants`); what it allows no more is cut off. A door
        that stands there already is left as it is, in the mode none to say so: programs that were started with it would
        else wait for it.
        """
        self._worklets[name], self._grants[name] = run_dir, grant
        self._policies[name] = self._policy.granted(grant)
        door = self._doors.get(name)
        if door is not None and not door.stands(run_dir):
            await self._drop(name)
            door = None
        if door is not None:
            door.enforce()
        elif self._policy.mode != "none":
            policy = lambda: self._policies[name]  # noqa: E731
            door = EgressDoor(name, run_dir, policy, self._dialer, self._tally, tell=self._tell)
            await door.listen()
            self._doors[name] = door

    async def close(self, name: str) -> None:
        """Ends the worklet's connections. Idempotent."""
        await self._drop(name)
        for known in (self._worklets, self._grants, self._policies):
            known.pop(name, None)

    async def _drop(self, name: str) -> None:
        if door := self._doors.pop(name, None):
            self._last = max(self._last, door.last_active)
            await door.close()

    @property
    def last_active(self) -> float:
        """When a byte was carried, on the clock of `time.monotonic`."""
        return max([self._last, *(door.last_active for door in self._doors.values())])

    def state(self) -> dict[str, Any]:
        """{"mode", "connections", "allowed", "refused", "failed", "sent", "received"}: now; since the begin; bytes."""
        tally = self._tally
        sums = {name: getattr(tally, name) for name in ("allowed", "refused", "failed", "sent", "received")}
        return {"mode": self._policy.mode, "connections": tally.open, **sums}

    def shut(self) -> None:
        """Takes no new connections."""
        for door in self._doors.values():
            door.shut()

    async def finish(self) -> None:
        """Lets connections end, up to a quarter of an hour."""
        await asyncio.gather(*(door.finish(_FINISH_SECONDS) for door in self._doors.values()))

    async def aclose(self) -> None:
        """Ends everything."""
        await asyncio.gather(*(self.close(name) for name in list(self._worklets)))
        self._dialer.close()


def _most() -> int:
    """Connections of all worklets: they leave half of the process's file descriptors to the model and the store."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_IN_ALL if soft == resource.RLIM_INFINITY else max(1, min(MOST_IN_ALL, soft // 4))
