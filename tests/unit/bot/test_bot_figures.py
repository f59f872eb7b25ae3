"""Figures that are kept where things happen: turns as they end, calls of Slack as they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from bot.figures import TurnFigures, gateway_of, pool_of
from bot.outbox import Outbox
from bot.slackcalls import SlackCalls
from sessions.events import Settled, Started
from sessions.types import Done, Failed, Interrupted, Turn, TurnId, TurnState
from web.metrics import Family

TURN = Turn(
    TurnId("t"), cast("Any", "s"), "C:1", "1.0", "U", "text", TurnState.DONE, None, datetime.now(UTC), None, None, False
)


def samples(families: Sequence[Family]) -> dict[tuple[str, ...], Any]:
    return {(family.name, *labels): value for family in families for labels, value in family.samples}


async def test_turns_are_counted_by_their_end_once() -> None:
    figures = TurnFigures()
    now = datetime.now(UTC)
    session = cast("Any", None)
    figures.observe(session, TURN, Started())
    figures.observe(session, replace(TURN, ended_at=now), Settled(Done(), 3.0))
    figures.observe(session, replace(TURN, ended_at=now), Settled(Done(), 3.0))  # told again to show it anew
    figures.observe(session, replace(TURN, id=TurnId("u"), ended_at=now), Settled(Failed("why"), 7000.0))
    figures.observe(session, replace(TURN, id=TurnId("v"), ended_at=now), Settled(Interrupted()))
    # Told again to show it after a restart; it was another program that ended it.
    figures.observe(session, replace(TURN, id=TurnId("w"), ended_at=now - timedelta(hours=1)), Settled(Done(), 3.0))
    found = samples(await figures())
    assert found["flow_turn_seconds", "done"].counts[1] == 1
    assert sum(found["flow_turn_seconds", "done"].counts) == 1
    assert found["flow_turn_seconds", "failed"].counts[-1] == 1, "longer than all buckets"
    assert found["flow_turn_seconds", "failed"].total == 7000.0
    assert found["flow_turns_unstarted", "interrupted"] == 1


async def test_calls_of_slack_are_counted_by_method_and_result() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.query["status"]))

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    calls = SlackCalls()
    async with aiohttp.ClientSession(trace_configs=[calls.tracing()]) as http:
        for path, status in (
            ("/api/chat.update", 200), ("/api/chat.update", 429), ("/api/chat.update", 503), ("/api/auth.test", 404),
            ("/files/T1/secret-name.txt", 200), ("/api/files/odd", 200),
        ):  # fmt: skip
            async with http.get(f"{url}{path}", params={"status": str(status)}):
                pass
        await runner.cleanup()
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"{url}/api/chat.postMessage")
    assert calls.counts == {
        ("chat.update", "ok"): 1, ("chat.update", "429"): 1, ("chat.update", "5xx"): 1, ("auth.test", "4xx"): 1,
        ("file", "ok"): 2, ("chat.postMessage", "none"): 1,
    }  # fmt: skip


async def test_the_delay_of_the_outbox_is_that_of_its_oldest_change() -> None:
    now = [100.0]
    nobody = cast("Any", None)
    outbox = Outbox(nobody, nobody, opened=nobody, delivered=nobody, refused=nobody, clock=lambda: now[0])
    assert outbox.delay == 0
    for turn_id, at in (("a", 100.0), ("b", 103.0)):
        now[0] = at
        outbox.add(cast("Any", SimpleNamespace(turn_id=turn_id, session_id="s", thread_ts="1", channel="C")))
    now[0] = 110.0
    assert outbox.delay == 10.0


async def test_parts_that_know_nothing_yet_tell_nothing() -> None:
    async def starting() -> dict[str, Any]:
        return {"state": "starting"}

    async def ok() -> dict[str, Any]:
        egress = {"connections": 1, "allowed": 2, "refused": 3, "failed": 0, "sent": 5, "received": 6}
        return {"state": "ok", "doors": 4, "running": 1, "answers": {"200": 9, "none": 1}, "egress": egress}

    assert samples(await gateway_of(starting)()) == {}
    found = samples(await gateway_of(ok)())
    assert found["flow_model_answers", "none"] == 1
    assert found["flow_egress_decisions", "refused"] == 3
    assert found["flow_gateway_doors",] == 4
    assert samples(await pool_of(lambda: {"state": "disabled"}, {})()) == {}


async def test_the_pool_tells_what_stands_ready_and_how_it_was_handed_out() -> None:
    state = {"state": "ok", "ready": 2, "starting": 1, "claimed": 4, "wanted": 3, "handed_out": 7, "missed": 5}
    found = samples(await pool_of(lambda: state, {"warm": 6, "cold": 1})())
    gauges = {name: found[f"flow_pool_{name}",] for name in ("ready", "starting", "claimed", "wanted")}
    assert gauges == {"ready": 2, "starting": 1, "claimed": 4, "wanted": 3}
    assert (found["flow_pool_requests", "handed_out"], found["flow_pool_requests", "missed"]) == (7, 5)
    assert (found["flow_pool_handouts", "warm"], found["flow_pool_handouts", "cold"]) == (6, 1)
