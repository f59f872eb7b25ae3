"""The administrator's socket, where one Flow follows another or runs beside it."""

from __future__ import annotations

from pathlib import Path

from sessions.types import SessionId
from web.control import CONTROL_SOCKET, Control, ask_to_stop


async def test_the_end_of_a_replica_leaves_the_socket_of_a_newer_one(tmp_path: Path) -> None:
    stopped: list[tuple[str, str]] = []

    def control(replica: str) -> Control:
        async def stop(session_id: SessionId) -> None:
            stopped.append((replica, session_id))

        return Control(tmp_path, stop)

    older, newer = control("older"), control("newer")
    await older.start()
    await newer.start()
    await older.aclose()
    assert await ask_to_stop(tmp_path / CONTROL_SOCKET, SessionId("s"))
    assert stopped == [("newer", "s")]
    await newer.aclose()
    assert not (tmp_path / CONTROL_SOCKET).exists()
    assert not await ask_to_stop(tmp_path / CONTROL_SOCKET, SessionId("s"))


async def test_one_that_never_started_takes_nothing_away(tmp_path: Path) -> None:
    async def stop(_: SessionId) -> None: ...

    (tmp_path / CONTROL_SOCKET).touch()
    await Control(tmp_path, stop).aclose()
    assert (tmp_path / CONTROL_SOCKET).exists()
