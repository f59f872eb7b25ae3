"""/metrics as Prometheus's own parsers read it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from config.errors import FlowError
from web.app import Server, build
from web.metrics import Family, Group, Metrics
from worklets.tally import Durations

ODD = 'a "quoted"\\ name\nwith \N{SNOWMAN}'


async def _figures() -> Sequence[Family]:
    durations = Durations((1.0, 5.0))
    for seconds in (0.5, 1.0, 2.0, 60.0):
        durations.note(seconds)
    return [
        Family("flow_turn_seconds", "Turns.", "histogram", ["outcome"], [(("done",), durations)]),
        Family("flow_calls", "Calls.", "counter", ["method"], [((ODD,), 3)]),
        Family("flow_size", "A size."),
    ]


async def _scrape(groups: dict[str, Group], accept: str = "") -> tuple[str, str]:
    server = Server(build({}, metrics=Metrics(groups)), "127.0.0.1", 0)
    await server.start()
    try:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{server.url}/metrics", headers={"Accept": accept}) as response,
        ):
            assert response.status == 200
            return await response.text(), response.headers["Content-Type"]
    finally:
        await server.stop()


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"])
async def test_both_formats_are_read_by_their_parsers(accept: str) -> None:
    text, content_type = await _scrape({"all": _figures}, accept)
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
    families = list((openmetrics if accept else plain)(text))
    found = {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}
    assert found["flow_turn_seconds_bucket", "1.0", "done"] == 2
    assert found["flow_turn_seconds_bucket", "5.0", "done"] == 3
    assert found["flow_turn_seconds_bucket", "+Inf", "done"] == 4
    assert found["flow_turn_seconds_count", "done"] == 4
    assert found["flow_turn_seconds_sum", "done"] == 63.5
    assert found["flow_calls_total", ODD] == 3
    assert found["flow_up", "all"] == 1
    assert found["process_open_fds",] > 0
    assert {family.type for family in families} >= {"histogram", "counter", "gauge"}


async def test_a_part_that_fails_leaves_the_others() -> None:
    async def down() -> Sequence[Family]:
        raise FlowError("The database does not answer.")

    async def broken() -> Sequence[Family]:
        raise ZeroDivisionError

    text, _ = await _scrape({"good": _figures, "down": down, "broken": broken})
    up = {s.labels["part"]: s.value for f in plain(text) for s in f.samples if s.name == "flow_up"}
    assert up == {"good": 1, "down": 0, "broken": 0}
    assert "flow_calls_total" in text


async def test_a_silent_part_is_not_waited_for_longer_than_prometheus_waits() -> None:
    async def silent() -> Sequence[Family]:
        await asyncio.Event().wait()
        raise AssertionError

    families = await Metrics({"silent": silent}, seconds=0.05).families()
    assert [list(family.samples) for family in families] == [[(("silent",), 0.0)]]


async def test_samples_are_bounded() -> None:
    async def many() -> Sequence[Family]:
        return [Family("flow_many", "Many.", labels=["n"], samples=[((str(n),), n) for n in range(100_000)])]

    text, _ = await _scrape({"many": many})
    assert text.count("flow_many{") == 2_000
