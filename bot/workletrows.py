"""What is told of worklets: one row each, put together from the sessions' table, the runtime and the newest figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sessions.poolstore import PoolStore
    from sessions.store import Store
    from sessions.types import Session
    from worklets.host import WorkletHost
    from worklets.monitor import Reading
    from worklets.runtime import Worklet


def rows(
    standing: Mapping[str, Worklet],
    sessions: Iterable[Session],
    readings: Mapping[str, Reading],
    pooled: Mapping[str, str],
) -> list[dict[str, Any]]:
    """`{"worklet", "running", "session", "name", "thread", "state", "stats"}` each, by their sessions' age.

    The last five are None where there is no session, or nothing is known; but `state` is "ready", "starting" or
    "leaving" of one that stands ready for a session (`pooled`: `PoolStore.states`). `stats` has the fields of
    `worklets.stats.Stats` and `cpus`, the processors that are kept busy now.
    """
    by_worklet = {session.worklet: session for session in sessions}
    order = sorted(standing, key=lambda name: (name not in by_worklet, _begun(by_worklet.get(name)), name))
    return [_row(standing[name], by_worklet.get(name), readings.get(name), pooled.get(name)) for name in order]


async def rows_of(host: WorkletHost, store: Store, pool: PoolStore, *, fresh: bool) -> list[dict[str, Any]]:
    """Of a running Flow. `fresh`: each worklet is asked. Raises StoreUnavailable, RuntimeUnavailable."""
    readings = await host.monitor.fresh() if fresh else host.monitor.readings()
    standing = await host.standing()
    pooled = await pool.states()  # before the sessions, since those take them
    return rows(standing, await store.live(), readings, pooled)


def _begun(session: Session | None) -> float:
    return session.created_at.timestamp() if session is not None else 0.0


def _row(worklet: Worklet, session: Session | None, reading: Reading | None, pooled: str | None) -> dict[str, Any]:
    return {
        "worklet": worklet.name,
        "running": worklet.running,
        "session": session.id if session else None,
        "name": session.name if session else None,
        "thread": f"{session.thread.channel}:{session.thread.thread_ts or 'not opened yet'}" if session else None,
        "state": session.state.value if session else pooled,
        "stats": {**asdict(reading.stats), "cpus": reading.cpus} if reading else None,
    }
