"""Watching a Flow that runs: the command line beside it, its metrics, and worklets that end by themselves."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from typing import Any

import aiohttp
import pytest
import yaml
from dockerlists import listed
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from waiting import until
from world import ROOT, World


@pytest.mark.timeout(300)
@pytest.mark.parametrize("runtime", [pytest.param("docker", marks=pytest.mark.docker)])
async def test_a_worklet_is_watched_from_outside_until_it_ends(world: World) -> None:
    await world.program.start(FLOW_WORKLET_MEMORY="640m")
    ts = await world.slack.post("maya", "general", f"@Flow SAY hello\nBASH {EATS}\nHOLD here\nSAY the end")
    await world.model.held("here")
    said = await world.see(ts, "its memory is full (640 MiB)")
    assert said.count("⚠️") == 1
    await until(lambda: _has_run_out(world), what="the engine's word of it")
    rows = await _the_commands(world)
    await _the_metrics(world)
    world.model.release("here")
    await world.settled(ts, "the end")
    await _its_end(world, rows[0])


EATS = "python3 -c 'x = [bytearray(8 << 20) for _ in range(200)]'"


async def _the_commands(world: World) -> list[dict[str, Any]]:
    told, listed = await asyncio.gather(
        world.program.flow("worklets", "stats", "--json"), world.program.flow("worklets")
    )
    rows: list[dict[str, Any]] = json.loads(told.stdout)
    assert [(row["state"], row["running"]) for row in rows] == [("working", True)]
    assert "SAY hello" in rows[0]["name"]
    stats = rows[0]["stats"]
    assert stats["memory"] > 10 << 20
    assert stats["memory_limit"] == 640 << 20
    assert stats["oom_kills"] == 1
    assert stats["cpu"] > 0
    assert stats["sent"] > 0, "Claude asked the model through the worklet's socket"
    assert rows[0]["session"][:8] in listed.stdout
    assert "working" in listed.stdout
    return rows


async def _scrape(world: World, accept: str = "") -> str:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{world.program.url}/metrics", headers={"Accept": accept}) as response,
    ):
        assert response.status == 200
        return await response.text()


async def _the_metrics(world: World) -> None:
    text = await _scrape(world)
    found = {sample.name: sample for family in plain(text) for sample in family.samples}
    values = {(s.name, tuple(s.labels.values())): s.value for family in plain(text) for s in family.samples}
    assert {s.labels["part"]: s.value for f in plain(text) for s in f.samples if s.name == "flow_up"} == dict.fromkeys(
        ("machine", "sessions", "turns", "worklets", "pool", "gateway", "slack"), 1.0
    )
    assert values["flow_sessions", ("working",)] == 1
    assert values["flow_worklets_running", ()] == 1
    assert values["flow_worklet_ends_total", ("oom",)] == 1
    assert values["flow_worklet_start_seconds_count", ("start",)] == 1
    assert values["flow_worklet_start_seconds_bucket", ("start", "+Inf")] == 1
    assert values["flow_slack_calls_total", ("chat.postMessage", "ok")] >= 1
    assert values["flow_slack_connected", ()] == 1
    assert found["flow_worklet_memory_bytes"].value > 10 << 20
    assert found["process_resident_memory_bytes"].value > 10 << 20
    assert values["flow_engine_calls_total", ("start",)] == 1
    assert values["flow_model_answers_total", ("200",)] >= 1
    for secret in ("maya", "SAY", "general", "hello", "xoxb", "sk-ant"):
        assert secret not in text, "nothing that people wrote, and nobody's name"
    assert _documented() == set(re.findall(r"^# TYPE (flow_\w+)", text, re.M)), (
        "docs/watching.md has each, and no other"
    )
    names = {family.name for family in openmetrics(await _scrape(world, "application/openmetrics-text; version=1.0.0"))}
    assert {"flow_worklet_start_seconds", "flow_sessions", "flow_slack_calls"} <= names


def _documented() -> set[str]:
    """The metrics in the tables of docs/watching.md, in which a name may leave out its beginning; and in its alerts."""
    page = (ROOT / "docs" / "watching.md").read_text()
    first_cells = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `flow_"))
    tables = {
        name if name[0] == "f" else f"flow_worklet{name}" for name in re.findall(r"`(flow_\w+|_\w+)`", first_cells)
    }
    alerts = set()
    for rule in yaml.safe_load(re.findall(r"```yaml\n(groups:.*?)```", page, re.S)[0])["groups"][0]["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "annotations"}
        alerts |= {re.sub("_(count|bucket)$", "", name) for name in re.findall(r"flow_\w+", rule["expr"])}
    assert alerts <= tables
    return tables


async def _its_end(world: World, row: dict[str, Any]) -> None:
    """Of an idle worklet, which nobody talks to: its session sleeps, and the log says why."""
    values = await _values(world)
    assert values["flow_turn_seconds_count", ("done",)] == 1
    (container,) = listed("ps", "-q", "--filter", f"name={row['worklet']}")
    subprocess.run(["docker", "kill", container], capture_output=True, check=True)
    await until(lambda: any("the session sleeps" in line for line in world.program.output))
    assert any("a worklet ended by itself" in line for line in world.program.output)
    await until(lambda: _has_ended(world), what="the metric of it")
    rows, logs = await asyncio.gather(
        world.program.flow("worklets"), world.program.flow("worklets", "logs", row["session"])
    )
    assert rows.stdout == "no worklets\n"
    assert "no worklet now" in logs.stdout


async def _values(world: World) -> dict[tuple[str, tuple[str, ...]], float]:
    return {(s.name, tuple(s.labels.values())): s.value for f in plain(await _scrape(world)) for s in f.samples}


async def _has_run_out(world: World) -> bool:
    return (await _values(world)).get(("flow_worklet_ends_total", ("oom",))) == 1


async def _has_ended(world: World) -> bool:
    values = await _values(world)
    return values["flow_worklet_ends_total", ("exit",)] == 1 and values["flow_worklets_running", ()] == 0
