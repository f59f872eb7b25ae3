"""The bot's side of the gateway's process: keeps a connection to it, tells it which doors to open.

Whoever holds the `GatewayClient` opens and closes doors as with a `ModelGateway`; that the process behind it was
killed and started again shows only in the log. Where no process can be started, the gateway runs in this one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from worklets.egress import told as told_egress
from worklets.egressdoors import Egress
from worklets.gatebeyond import Beyond
from worklets.gateway import ModelGateway
from worklets.gatewaychannel import Channel, GatewayHung, GatewayLost, GatewayRefused
from worklets.gatewaycontrol import PROGRAM, control_dir, holder, version
from worklets.gatewaylaunch import GatewayLauncher, GatewayUnstartable
from worklets.gatewaymodel import Credential
from worklets.gatewaysubjects import routes
from worklets.gatewayusage import UsageBook
from worklets.identity import Identity
from worklets.kvdoor import StoreDoor, told

if TYPE_CHECKING:
    from config.slices.egress import EgressSettings
    from config.slices.kv import KVSettings

_BEAT_SECONDS = 20.0
_ANSWER_SECONDS = 30.0  # far longer than any answer takes on a busy machine
_STATE_SECONDS = 2.0  # what whoever asks for the state waits for a start
_STEADY_SECONDS = 30.0  # a process that lives shorter than this has failed
_FAILURES = 5  # in a row, and no other process is started

log = structlog.get_logger(__name__)


class _Place(NamedTuple):
    """Where a door is, and whose store is behind it."""

    run_dir: Path
    worklet_id: str | None
    grants: Mapping[str, Any] | None = None


class GatewayClient:
    """One per program. `start` begins to look for the process, or the first `open` does; `aclose` lets go of it.

    `store` is where the key-value store is; None: there is none. `egress` is what worklets may reach outside; None:
    nothing.

    `environ` is what the process may inherit from, `command` its argv without the share directory; it is asked
    every `beat` seconds whether it still answers, and killed when it does not within `patience` seconds.
    """

    def __init__(
        self,
        share_dir: Path,
        identity: Identity,
        upstream: str,
        credential: Credential | None,
        *,
        store: KVSettings | None = None,
        egress: EgressSettings | None = None,
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", PROGRAM),
        beat: float = _BEAT_SECONDS,
        patience: float = _ANSWER_SECONDS,
    ) -> None:
        self._share_dir, self._identity = share_dir, identity
        self._upstream, self._credential = upstream, credential or Credential()
        self._beat = beat
        self._launcher = GatewayLauncher(share_dir, environ or {}, command, patience, self._hear)
        self._listeners: dict[str, list[Callable[[dict[str, Any]], None]]] = {}
        self._store = told(store) if store is not None else None
        self._egress = told_egress(egress) if egress is not None else None
        self._doors: dict[str, _Place] = {}
        self._own: set[str] = set()  # of these, what was opened here; others are known from the process
        self._process: str | None = None  # which one that was
        self.runs: Callable[[str], bool] = lambda _name: True  # an own door's worklet is still run here
        self._limits: dict[str, dict[str, Any]] = {}  # as they were told last: the arguments of `limit`
        self._met = False  # a process of our version, or one that we may not send away
        self._channel: Channel | None = None
        self._inner: ModelGateway | None = None  # where no process can be started
        self._settled = asyncio.Event()  # there is a channel, or an inner gateway
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Returns at once. Idempotent."""
        if self._keeping is None or (self._keeping.done() and self._inner is None):  # what failed may go now
            self._keeping = asyncio.create_task(self._keep())

    async def open(
        self, name: str, run_dir: Path, worklet_id: str | None = None, grants: Mapping[str, Any] | None = None
    ) -> None:
        """Listens at `run_dir/gateway.sock` for the worklet `name`; one that does so stays.

        Raises OSError, WorkletError.
        """
        was, ours = self._doors.get(name), name in self._own
        known = was or _Place(run_dir, None)
        place = _Place(run_dir, worklet_id or known.worklet_id, grants if grants is not None else known.grants)
        self._doors[name] = place
        self._own.add(name)
        try:
            await self._do(lambda inner: inner.open(name, *place), "open", **_named(name, place))
        except Exception as error:
            if self._doors.get(name) is place:  # else it was closed meanwhile, or told anew
                self._give_up(name, was, ours=ours, lost=isinstance(error, GatewayLost))
            raise

    def _give_up(self, name: str, was: _Place | None, *, ours: bool, lost: bool) -> None:
        """A door could not be opened, whatever is wrong with it: with all others it is opened as it was before.

        One that was open counts as told anew where the gateway was lost: what was taken back must not come again.
        """
        if was is not None and lost:
            return
        if was is None:
            del self._doors[name]
        else:
            self._doors[name] = was
        if not ours:
            self._own.discard(name)

    def grants(self) -> dict[str, Mapping[str, Any]]:
        """What is granted at each door, by subject; of those that others opened as it was at the last look."""
        return {name: place.grants or {} for name, place in self._doors.items()}

    async def look(self) -> None:
        """Learns which doors there are by now, and what others have granted at theirs. Raises GatewayLost."""
        await self._ready()
        if self._inner is None:
            assert self._channel is not None
            self._learn(await self._channel.ask("doors"))

    async def regrant(self, name: str, subject: str, value: Any, was: Any = None) -> None:
        """What the worklet of a door that another opened may have of one subject from now on. Raises OSError.

        Nothing changes where that is not `was` any more (None: nothing was granted): whoever has the worklet by now has
        said something since.
        """
        if name in self._doors:
            told = {"name": name, "subject": subject, "value": value, "was": was}
            await self._do(lambda inner: inner.regrant(**told), "grant", **told)

    async def close(self, name: str) -> None:
        """Ends the worklet's requests and its socket. Idempotent."""
        self._doors.pop(name, None)
        self._own.discard(name)
        self._limits.pop(name, None)
        if self._keeping is None and holder(self._share_dir) is None:
            return  # where no process is, no door is
        try:
            await self._do(lambda inner: inner.close(name), "close", name=name)
        except GatewayLost:
            if self._closed or holder(self._share_dir) is not None:
                raise
            return  # none can be had, here or there: what else the worklet's end takes goes on
        self._doors.pop(name, None)  # it may have been among those that the process had

    async def limit(self, name: str, dollars: float | None, spent: float = 0.0, of: str = "") -> None:
        """What the worklet may still spend on the model from now on; None: as much as it takes. See `Doors.limit`."""
        self._limits[name] = left = {"dollars": dollars, "spent": spent, "of": of}
        if self._keeping is None and holder(self._share_dir) is None:
            return
        await self._do(lambda inner: inner.limit(name, dollars, spent, of), "limit", name=name, **left)

    async def granted(self, name: str) -> Mapping[str, Any]:
        """What lies behind the worklet's door, by subject, as the process had it when we met, or was told since."""
        await self._ready()
        place = self._doors.get(name)
        return (place.grants if place is not None else None) or {}

    async def usage(self, since: str, after: int) -> tuple[str, list[dict[str, Any]]]:
        """Which book has them, and the model's answers that are not written down: see `UsageBook.fetch`.

        Raises GatewayLost.
        """
        await self._ready()
        if self._inner is not None:
            book = self._inner.usage
            return book.since, book.fetch(since, after)
        assert self._channel is not None
        told = await self._channel.ask("usage", since=since, after=after)
        return str(told["since"]), list(told["rows"])

    async def aclose(self) -> None:
        """The process goes on, without us; a gateway in this process ends."""
        self._closed = True
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._channel is not None:
            await self._channel.aclose()
        if self._inner is not None:
            await self._inner.aclose()
            self._inner.usage.keep()

    async def state(self) -> dict[str, Any]:
        """{"state": "ok", "pid", "doors", "running", "answers", "egress"}, or {"state": "starting"}.

        Its process, what is open there, the model's answers since it began by their HTTP status, what goes out.

        Raises GatewayLost.
        """
        try:
            async with asyncio.timeout(_STATE_SECONDS):
                await self._ready()
        except TimeoutError:
            return {"state": "starting"}
        if self._inner is not None:
            return {
                "state": "ok",
                "pid": os.getpid(),
                "doors": len(self._inner.doors()),
                "running": self._inner.running,
                "answers": dict(self._inner.model.answers),
                "egress": self._inner.egress(),
            }
        assert self._channel is not None
        told = await self._channel.ask("doors")
        found = {name: told[name] for name in ("pid", "running", "egress")}
        return {"state": "ok", "doors": len(told["doors"]), "answers": told.get("answers", {}), **found}

    async def _do(self, inwards: Callable[[ModelGateway], Awaitable[None]], do: str, **arguments: Any) -> None:
        """Until a process has done it: each may be repeated."""
        while True:
            await self._ready()
            if self._inner is not None:
                await inwards(self._inner)
                return
            channel = self._channel
            assert channel is not None
            try:
                await channel.ask(do, **arguments)
            except GatewayLost as error:
                if self._channel is channel and self._inner is None:
                    self._settled.clear()  # `_keep` is about to see it too
                if isinstance(error, GatewayHung):
                    await channel.aclose()  # else a process that answers again looks to `_keep` as if nothing had been
            else:
                return

    async def _ready(self) -> None:
        """Returns when a process serves, or this one. Raises GatewayLost where neither will."""
        if self._closed:
            raise GatewayLost
        self.start()
        assert self._keeping is not None
        while not self._settled.is_set():  # anew where a process was lost before we had our turn
            if self._keeping.done():
                raise GatewayLost("The model gateway does not run: Flow's log says why.")
            settled = asyncio.create_task(self._settled.wait())
            try:
                await asyncio.wait({settled, self._keeping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                settled.cancel()

    # One task keeps the connection

    async def _keep(self) -> None:
        failures = 0
        try:
            while failures < _FAILURES:
                began = time.monotonic()
                self._channel = await self._connect()
                self._settled.set()
                self._hear("connected", {})
                await self._channel.last(self._beat)
                self._settled.clear()
                await self._channel.aclose()
                failures = failures + 1 if time.monotonic() - began < _STEADY_SECONDS else 0
                log.warning("the model gateway's process is lost and is started again", failures=failures)
            raise GatewayUnstartable(f"The model gateway's process was lost {failures} times in a row.")
        except GatewayUnstartable as error:
            await self._fall_back(str(error))
        except Exception as error:  # whatever it was, worklets need their doors
            log.exception("the connection to the model gateway's process failed")
            await self._fall_back(type(error).__name__)

    async def _fall_back(self, reason: str) -> None:
        log.warning("the model gateway runs in this process: a restart cuts running answers off", reason=reason)
        self._settled.clear()
        if self._channel is not None:
            await self._channel.aclose()  # a process that does not do as told ends once nobody needs it
        try:
            self._inner = await self._serving_here()
        except Exception:  # whoever waits is told, and whoever asks next has it tried again
            log.exception("the model gateway does not run in this process either")
            return
        self._settled.set()
        self._hear("connected", {})

    async def _serving_here(self) -> ModelGateway:
        store = StoreDoor(self._share_dir)
        store.configure(self._store)
        egress = Egress(tell=self._tell)
        await egress.configure(self._egress)
        inner = ModelGateway(
            self._upstream, self._credential, self._identity, store, egress, routes=routes(), tell=self._tell,
            usage=UsageBook(lambda: self._tell("usage"), control_dir(self._share_dir)), beyond=Beyond(self._share_dir),
        )  # fmt: skip
        for name, left in self._limits.items():
            inner.usage.limit(name, **left)
        for name, place in list(self._doors.items()):
            try:
                await inner.open(name, *place)
            except Exception as error:  # noqa: BLE001 - one door's trouble is not all the others'
                log.warning("a worklet's door cannot be opened", worklet=name, error=repr(error))
        return inner

    def on(self, kind: str, listener: Callable[[dict[str, Any]], None]) -> None:
        """Has what the gateway says unasked of that kind heard: its fields. See `worklets.gatewayroutes`.

        "connected" (no fields) comes whenever there is a process anew: what it said before may have been lost.
        """
        self._listeners.setdefault(kind, []).append(listener)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._hear(kind, fields)

    def _hear(self, kind: str, fields: dict[str, Any]) -> None:
        for listener in self._listeners.get(kind, ()):
            try:
                listener(fields)
            except Exception:  # the connection lives on, whatever one listener makes of it
                log.exception("what the gateway said could not be heard", kind=kind)

    async def _connect(self) -> Channel:
        """A channel to a process that knows the credential and has our doors open."""
        lost: GatewayLost | None = None
        for _ in range(3):
            channel = await self._launcher.reach() or await self._launcher.launch()
            try:
                async with AsyncExitStack() as failing:
                    return await self._greet(channel, failing)
            except GatewayLost as error:
                lost = error
                if isinstance(error, GatewayHung):
                    await self._launcher.kill()
        raise GatewayUnstartable(f"The model gateway's process does not answer: {lost}.")

    async def _greet(self, channel: Channel, failing: AsyncExitStack) -> Channel:
        """The one to use from now on. `failing` closes all others, and this one too where anything goes wrong.

        A process to which a connection is left open never ends.
        """
        failing.push_async_callback(channel.aclose)
        own, before = version(), self._process
        told = await self._hello(channel, None if self._met else own)
        self._learn(told)
        if not self._met:
            inherited = told.get("limits", {})
            if told["version"] != own:
                log.info("the model gateway's process is of another version and hands over", pid=told["pid"])
                await channel.ask("shutdown")
                await channel.aclose()
                channel = await self._launcher.launch()
                failing.push_async_callback(channel.aclose)
                told = await self._hello(channel, None)
                self._learn(told)
                for name, left in inherited.items():
                    await channel.ask("limit", name=name, **left)
            self._limits = inherited | self._limits
            self._met = True
        for name, place in list(self._doors.items()):
            there = name in told["doors"] and not self._is_ours(name)
            try:
                await channel.ask("open", **_named(name, place._replace(grants=None) if there else place))
            except GatewayLost:
                raise
            except (OSError, GatewayRefused) as error:
                log.warning("a worklet's door cannot be opened", worklet=name, error=str(error))
        if before is None or before != told.get("since"):  # else it knows them, and has counted since
            for name, left in list(self._limits.items()):
                await channel.ask("limit", name=name, **left, fallback=not self._is_ours(name))
        self._process = told.get("since")
        failing.pop_all()
        return channel

    def _learn(self, told: Mapping[str, Any]) -> None:
        """What others granted, and closed, is theirs to say: of their doors the process knows best, if it is the same.

        A new one has to be told of those too that nobody has taken up yet, as they were last.
        """
        ids, grants = told.get("worklets", {}), told.get("grants", {})  # an older version knows of none
        found = {n: _Place(Path(d), ids.get(n), grants.get(n)) for n, d in told["doors"].items()}
        same = self._process is not None and self._process == told.get("since")
        known = {n: place for n, place in self._doors.items() if not same or self._is_ours(n)}
        self._doors = known | {n: place for n, place in found.items() if n not in known or not self._is_ours(n)}

    def _is_ours(self, name: str) -> bool:
        return name in self._own and self.runs(name)

    async def _hello(self, channel: Channel, wanted: str | None) -> dict[str, Any]:
        return await channel.ask(
            "hello",
            version=wanted,
            base_url=self._upstream,
            api_key=self._credential.api_key,
            oauth_token=self._credential.oauth_token,
            store=self._store,
            egress=self._egress,
        )


def _named(name: str, place: _Place) -> dict[str, Any]:
    return {"name": name, "run_dir": str(place.run_dir), "worklet_id": place.worklet_id, "grants": place.grants}
