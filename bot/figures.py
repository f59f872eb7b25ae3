"""What Flow tells at /metrics, part by part."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sessions.events import LifeEvent, Settled
from sessions.types import SessionState
from web.metrics import Family, Group
from worklets.tally import LONG_SECONDS, Durations

if TYPE_CHECKING:
    from bot.core import Core
    from bot.outbox import Outbox
    from bot.slackcalls import SlackCalls
    from bot.slackdoor import SlackDoor
    from config.settings import Settings
    from sessions.retention import Retention
    from sessions.store import Store
    from sessions.types import Session, SessionId, Turn, TurnId
    from worklets.engine import Engine
    from worklets.events import AgentEvent
    from worklets.host import WorkletHost
    from worklets.monitor import Monitor, Reading
    from worklets.pool import Pool

_COUNTED = 10_000  # turns of which it is known that their end was counted
_LISTED_SECONDS = 10.0  # so old may be what the engine said of its containers


class TurnFigures:
    """An observer that counts how turns end, each once: an end is told again where the turn is shown anew, and where it
    came before this program began."""

    def __init__(self) -> None:
        self._began = datetime.now(UTC)
        self._counted: dict[TurnId, None] = {}  # the last ones, the oldest first
        self._ends: dict[str, Durations] = {}
        self._unstarted = Counter[str]()

    def observe(self, _: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        if not isinstance(event, Settled) or (turn.ended_at is not None and turn.ended_at < self._began):
            return
        if turn.id in self._counted:
            return
        self._counted[turn.id] = None
        if len(self._counted) > _COUNTED:
            del self._counted[next(iter(self._counted))]
        outcome = type(event.outcome).__name__.lower()
        if event.seconds is None:
            self._unstarted[outcome] += 1
        else:
            self._ends.setdefault(outcome, Durations(LONG_SECONDS)).note(event.seconds)

    async def __call__(self) -> Sequence[Family]:
        """Of all that ended."""
        return [
            Family(
                "flow_turn_seconds",
                "Turns that began, from their start to their end, by outcome.",
                "histogram",
                ["outcome"],
                [((outcome,), durations) for outcome, durations in self._ends.items()],
            ),
            _counts("flow_turns_unstarted", "Turns that ended before they began.", "outcome", self._unstarted),
        ]


class WorkletFigures:
    """Counts of worklets, and what each uses: by its session's id, as long as it runs and this process is connected."""

    def __init__(self, host: WorkletHost, store: Store, engine: Engine | None) -> None:
        self._host, self._store, self._engine = host, store, engine
        self._running, self._sidecars, self._listed = 0, 0, float("-inf")

    async def __call__(self) -> Sequence[Family]:
        monitor = self._host.monitor
        sessions = {session.worklet: session.id for session in await self._store.live()}
        readings = {sessions[name]: one for name, one in monitor.readings().items() if name in sessions}
        return [
            Family("flow_worklets_running", "Worklets that run.", samples=[((), await self._count())]),
            Family("flow_sidecars_running", "Containers with MCP servers beside them.", samples=[((), self._sidecars)]),
            Family("flow_worklets_starting", "Worklets on their way, or queued.", samples=[((), monitor.starting)]),
            *_starts(monitor),
            *_uses(readings),
            *(_engine(self._engine) if self._engine is not None else ()),
        ]

    async def _count(self) -> int:
        if time.monotonic() - self._listed > _LISTED_SECONDS:
            self._running, self._sidecars = len(await self._host.running()), await self._host.sidecars()
            self._listed = time.monotonic()
        return self._running


def _starts(monitor: Monitor) -> list[Family]:
    samples = [((kind,), durations) for kind, durations in monitor.starts.items()]
    about = "Starts of worklets until Claude's relay answers, with their wait for a turn, without cloning."
    return [
        Family("flow_worklet_start_seconds", about, "histogram", ["kind"], samples),
        _counts("flow_worklet_start_failures", "Starts that came to nothing.", "kind", monitor.failures),
        _counts("flow_worklet_ends", "Unasked: worklets that ended (exit), memory that ran out in one (oom).", "why",
                {"exit": 0, "oom": 0, **monitor.ends}),
    ]  # fmt: skip


#: Name, meaning, and the figure of a reading; None: there is none.
_USES: Sequence[tuple[str, str, Callable[[Reading], float | None]]] = (
    ("cpu_seconds", "Processor time since its start.", lambda one: one.stats.cpu),
    ("memory_bytes", "Memory in use, without page cache that is not.", lambda one: one.stats.memory),
    ("memory_limit_bytes", "What it may use.", lambda one: one.stats.memory_limit),
    ("pids", "Processes and threads.", lambda one: one.stats.pids),
    ("pids_limit", "How many it may have.", lambda one: one.stats.pids_limit),
    ("disk_bytes", "What stands on its disk, as of the last measuring.", lambda one: one.stats.disk),
    ("disk_limit_bytes", "What may stand there.", lambda one: one.stats.disk_limit),
    ("sent_bytes", "Sent through its sockets: to the model, the store, the proxy.", lambda one: one.stats.sent),
    ("received_bytes", "Received through them.", lambda one: one.stats.received),
    ("uptime_seconds", "Since its start.", lambda one: one.stats.uptime),
)


def _uses(readings: Mapping[SessionId, Reading]) -> list[Family]:
    """Gauges all: what grows in a worklet begins anew with each, and it tells what it likes."""
    found = []
    for name, about, figure in _USES:
        samples = [((id_,), value) for id_, one in readings.items() if (value := figure(one)) is not None]
        found.append(Family(f"flow_worklet_{name}", about, labels=["session"], samples=samples))
    return found


def _engine(engine: Engine) -> list[Family]:
    return [
        _counts("flow_engine_calls", "Calls of the Docker engine.", "pool", engine.calls),
        _counts(
            "flow_engine_failures",
            "Those that it did not answer in time, or refused.",
            "pool",
            {**dict.fromkeys(engine.calls, 0), **engine.failures},
        ),
    ]


def sessions_of(store: Store, limit: int) -> Group:
    async def families() -> Sequence[Family]:
        counts = {**{state.value: 0 for state in SessionState}, **await store.counts()}
        samples = [((state,), count) for state, count in counts.items()]
        return [
            Family("flow_sessions", "Sessions by state.", labels=["state"], samples=samples),
            Family("flow_sessions_limit", "How many may have a worklet at a time.", samples=[((), limit)]),
        ]

    return families


def slack_of(outbox: Outbox, calls: SlackCalls, connected: Callable[[], bool]) -> Group:
    async def families() -> Sequence[Family]:
        made = [((method, result), count) for (method, result), count in calls.counts.items()]
        return [
            Family("flow_slack_connected", "Whether Slack is heard.", samples=[((), float(connected()))]),
            Family("flow_slack_calls", "Calls of Slack, by what it said.", "counter", ["method", "result"], made),
            Family("flow_outbox_turns", "Turns that are not shown to the end.", samples=[((), len(outbox))]),
            Family(
                "flow_outbox_delay_seconds",
                "How old the oldest change is that nobody has seen in Slack.",
                samples=[((), outbox.delay)],
            ),
        ]

    return families


def gateway_of(state: Callable[[], Awaitable[Mapping[str, Any]]]) -> Group:
    """`state`: see `GatewayClient.state`."""

    async def families() -> Sequence[Family]:
        told = await state()
        egress = told.get("egress") or {}
        return [
            Family(
                "flow_gateway_requests_running", "Requests to the model on their way.", samples=_known(told, "running")
            ),
            _counts(
                "flow_model_answers",
                "The model's, by HTTP status, since the gateway's process began; none: it could not be reached.",
                "status",
                told.get("answers") or {},
            ),
            Family("flow_gateway_doors", "Worklets whose door is open.", samples=_known(told, "doors")),
            Family("flow_egress_connections", "Connections out now.", samples=_known(egress, "connections")),
            _counts(
                "flow_egress_decisions",
                "Connections out that were asked for, since the gateway's process began.",
                "decision",
                {name: egress[name] for name in ("allowed", "refused", "failed") if name in egress},
            ),
            _counts(
                "flow_egress_bytes",
                "Carried by the forward proxy, since the gateway's process began.",
                "direction",
                {name: egress[name] for name in ("sent", "received") if name in egress},
            ),
        ]

    return families


def machine_of(share_dir: Any, retention: Retention, runtime: str) -> Group:
    async def families() -> Sequence[Family]:
        disk = await asyncio.to_thread(shutil.disk_usage, share_dir)
        about = "Workspaces that no session claims."
        return [
            Family(
                "flow_info",
                "Which Flow.",
                labels=["version", "runtime"],
                samples=[((version("flow-slack"), runtime), 1)],
            ),
            Family("flow_disk_free_bytes", "Free where FLOW_SHARE_DIR is.", samples=[((), disk.free)]),
            Family("flow_disk_bytes", "The size of that disk.", samples=[((), disk.total)]),
            Family("flow_orphaned_workspaces", about, samples=[((), len(retention.orphans))]),
        ]

    return families


def pool_of(state: Callable[[], Mapping[str, Any]], handouts: Mapping[str, int]) -> Group:
    """`state`: see `worklets.pool.Pool.state`; `handouts`: see `Monitor.handouts`."""

    async def families() -> Sequence[Family]:
        told = state()
        return [
            Family("flow_pool_ready", "Worklets that stand ready for new threads.", samples=_known(told, "ready")),
            Family("flow_pool_wanted", "How many should.", samples=_known(told, "wanted")),
            Family("flow_pool_starting", "Those that are being made.", samples=_known(told, "starting")),
            Family(
                "flow_pool_claimed", "Sessions that took one in the last ten minutes.", samples=_known(told, "claimed")
            ),
            _counts(
                "flow_pool_handouts",
                "Those that became a session's: with the Claude that stood ready (warm), or with another (cold).",
                "start",
                handouts,
            ),
            _counts(
                "flow_pool_requests",
                "New sessions that could have used one: whether it was there.",
                "result",
                {name: told[name] for name in ("handed_out", "missed") if name in told},
            ),
        ]

    return families


def groups(
    settings: Settings, core: Core, retention: Retention, turns: TurnFigures, slack: SlackDoor | None, pool: Pool
) -> dict[str, Group]:
    """All of a serving Flow, by part."""
    engine = getattr(core.runtime, "engine", None)
    found: dict[str, Group] = {
        "machine": machine_of(settings.share_dir, retention, core.runtime.kind),
        "sessions": sessions_of(core.store, settings.sessions.max_sessions),
        "turns": turns,
        "worklets": WorkletFigures(core.host, core.store, engine),
        "pool": pool_of(pool.state, core.host.monitor.handouts),
        "gateway": gateway_of(core.gateway.state),
    }
    if slack is not None:
        door = slack
        found["slack"] = slack_of(door.show.outbox, door.calls, lambda: door.socket.connected)
    return found


def _counts(name: str, about: str, label: str, counts: Mapping[Any, float]) -> Family:
    return Family(name, about, "counter", [label], [((str(key),), count) for key, count in counts.items()])


def _known(told: Mapping[str, Any], name: str) -> list[tuple[Sequence[str], float]]:
    return [((), told[name])] if isinstance(told.get(name), int | float) else []
