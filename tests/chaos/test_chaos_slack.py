"""Slack fails in every way it knows while people talk; afterwards each thread shows its transcript, once, in order."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import law_shown
import pytest
from law_records import read
from law_turns import of_turn, out_of_order
from slack_faults import FAULTS, SLOWLY, Row, Strike, answers_wanted, mixed, table
from slack_talk import Talk
from slackdoor import MANIFEST, Flow, starter
from unit.sessions.scripted import ScriptedHost
from waiting import until

from simulator.slack import SlackSimulator

pytestmark = pytest.mark.timeout(3600)

_SCALE = 30.0  # times Slack's limits, on both sides
_AT_A_STRETCH = 8  # strikes until Slack works for a moment
_SINGLY = 0.6  # share of the answers that see one kind of fault only, in a long run


@asynccontextmanager
async def _world(path: Path) -> AsyncIterator[Flow]:
    path.mkdir(parents=True)
    async with SlackSimulator(
        manifest=MANIFEST, limit_scale=_SCALE, ack_timeout=1.0, retry_delays=(0.1, 0.5, 1, 2, 4, 8)
    ) as slack:
        start = starter(path, slack, ScriptedHost())
        async with start(max_sessions=100, call_seconds=0.7, deaf_after=2.0, pace=_SCALE * 0.9) as flow:
            yield flow


async def _run(kind: str, strike: Strike, answers: int, seed: str, path: Path) -> list[str]:
    """So many answers while `strike` comes down again and again; violations of the law."""
    row, began = table.setdefault(kind, Row()), time.monotonic()
    dice = random.Random(f"{seed} {kind}")
    async with _world(path) as flow:
        talk = Talk(flow, dice)
        trouble = asyncio.create_task(_trouble(flow, kind, strike, dice, row))
        threads = max(2, min(12, answers // 4))
        await asyncio.gather(
            *(talk.thread(number, -(-answers // threads)) for number in range(threads)),
            *(talk.command(number) for number in range(threads // 2)),
        )
        trouble.cancel()
        await asyncio.wait([trouble])
        flow.slack.faults.clear()
        violations = await _judge(flow, talk, path)
        row.answers += len(talk.said) + len(talk.commands)
    row.violations += len(violations)
    row.seconds += time.monotonic() - began
    return [f"{kind}, seed {seed}: {violation}" for violation in violations]


async def _trouble(flow: Flow, kind: str, strike: Strike, dice: random.Random, row: Row) -> None:
    for number in itertools.count(1):
        row.strikes += 1
        await strike(flow.slack, dice)
        await asyncio.sleep(dice.uniform(1.0, 3.0) if kind in SLOWLY else dice.uniform(0.1, 0.6))
        if number % _AT_A_STRETCH == 0:  # else faults pile up faster than calls can meet them, and nothing is answered
            flow.slack.faults.clear()
            await until(lambda: flow.socket.connected, 60)


async def _judge(flow: Flow, talk: Talk, path: Path) -> list[str]:
    """Waits until nothing more is to come, then looks."""
    dsn = f"sqlite://{path}/db.sqlite"

    async def quiet() -> bool:
        records = await read(dsn)
        heard = {f"{channel}:{ts}" for channel, ts, _ in talk.said} <= records.sources
        return heard and len(flow.show.outbox) == 0 and all(t.row["delivered"] for t in records.turns)

    with suppress(AssertionError):  # what is missing is said below
        await until(quiet, 60)
    records, shown = await read(dsn), law_shown.of_turns(flow.slack)
    found = [f"{text[:40]!r} was not heard" for c, ts, text in talk.said if f"{c}:{ts}" not in records.sources]
    texts = Counter(turn.text for turn in records.turns)
    found += [f"the command {text[:40]!r} became {texts[text]} turns" for text in talk.commands if texts[text] != 1]
    for turn in records.turns:
        if turn.state != "done" or not turn.row["delivered"]:
            found.append(f"{turn.name} is {turn.state}, delivered {turn.row['delivered']}")
        found += of_turn(turn, shown.get(turn.id, []))
    found += out_of_order(records, shown)
    found += [f"{session.name} is {session.row['status']}" for session in records.sessions if _stuck(session.row)]
    prompts = Counter(text for process in flow.host.processes.values() for _, text in process.prompts)
    found += [f"{text[:40]!r} was put to Claude {times} times" for text, times in prompts.items() if times > 1]
    return found + [f"a message belongs to no turn: {text[:60]!r}" for text in law_shown.strangers(flow.slack)]


def _stuck(row: object) -> bool:
    return row["status"] not in ("idle", "asleep")  # type: ignore[index]


async def test_each_fault_alone(kind: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """In a long run only (tests/chaos/conftest.py); in a short one all faults come mixed."""
    answers, _ = answers_wanted(pytestconfig)
    share = round(answers * _SINGLY / len(FAULTS))
    violations = await _run(kind, FAULTS[kind], share, pytestconfig.getoption("--chaos-seed"), tmp_path / "world")
    assert not violations, "\n".join(violations)


async def test_all_faults_mixed(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    answers, long = answers_wanted(pytestconfig)
    share = round(answers * (1 - _SINGLY)) if long else answers
    seed = pytestconfig.getoption("--chaos-seed")
    worlds = max(1, share // 60)
    violations: list[str] = []
    for number in range(worlds):
        own = seed if worlds == 1 else f"{seed}/{number}"
        violations += await _run("all mixed", mixed, -(-share // worlds), own, tmp_path / str(number))
    assert not violations, "\n".join(violations)
