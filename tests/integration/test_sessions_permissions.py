"""What the real Claude CLI asks people: each story loses the program between the question and the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import schema
from modelrequests import in_conversation
from waiting import until

from sessions.asks import Ask, AskKind, Decision
from sessions.db import open_database
from sessions.events import AskOpened, Settled
from sessions.manager import Sessions
from sessions.policy import Policy
from sessions.reaper import Reaper
from sessions.store import Store
from sessions.types import Done, Outcome, Prompt, Session, SessionState, Submitted, ThreadId, Turn
from simulator.model import ScriptedModel
from worklets.events import Text, ToolFinished
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime

THREAD = ThreadId("T1", "C1", "1700000000.000100")
ASKING = Policy(ask=("Bash(touch *)",), deny=("Bash(rm *)",))


@dataclass
class Flow:
    """One run of the program."""

    sessions: Sessions
    reaper: Reaper
    told: list[tuple[Session, Turn, Any]] = field(default_factory=list)

    async def ask(self, text: str, mode: str | None = None) -> Submitted:
        ts = "1700000100.000000" if not self.told else f"17000002{len(self.told):02}.000000"
        submitted = await self.sessions.submit(Prompt(THREAD, f"C1:{ts}", ts, "U1", text, mode=mode))
        assert submitted is not None
        return submitted

    def events(self, asked: Submitted, kind: type[Any]) -> list[Any]:
        return [event for _, turn, event in self.told if turn.id == asked.turn.id and isinstance(event, kind)]

    async def opened(self, asked: Submitted) -> Ask:
        found = await until(lambda: self.events(asked, AskOpened), 60, "Claude to ask")
        ask: Ask = found[-1].ask
        return ask

    async def outcome(self, asked: Submitted) -> Outcome:
        found = await until(lambda: self.events(asked, Settled), 60, "the end of the turn")
        outcome: Outcome = found[0].outcome
        return outcome

    def results(self, asked: Submitted) -> list[ToolFinished]:
        return self.events(asked, ToolFinished)


Start = Callable[..., AbstractAsyncContextManager[Flow]]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
async def start(model: ScriptedModel, tmp_path: Path) -> AsyncIterator[Start]:
    identity = Identity.load(tmp_path)

    @asynccontextmanager
    async def run(policy: Policy = ASKING) -> AsyncIterator[Flow]:
        dsn = f"sqlite://{tmp_path}/db.sqlite"
        await schema.migrated(dsn)
        runtime, database = LocalRuntime(share_dir=tmp_path, identity=identity), open_database(dsn)
        gateway = ModelGateway(model.url, Credential(api_key="sk-real"), identity)
        host, store = WorkletHost(runtime, gateway, identity, tmp_path), Store(database)
        try:
            async with Sessions(store, host, max_sessions=3, policy=policy) as sessions:
                flow = Flow(sessions, Reaper(sessions, store, host, session_timeout=timedelta(hours=1)))
                sessions.observe(lambda *told: flow.told.append(told))
                await flow.reaper.recover()
                yield flow
        finally:
            await gateway.aclose()
            await database.close()
            await runtime.close()

    yield run
    last = LocalRuntime(share_dir=tmp_path, identity=identity)
    for worklet in await last.list():
        await last.remove(worklet.name, grace=0)
    await last.close()


def workspace(tmp_path: Path, name: str) -> list[Path]:
    return [path for path in tmp_path.rglob(name) if "workspace" in path.parts]


async def test_a_permission(start: Start, tmp_path: Path) -> None:
    async with start() as before:
        asked = await before.ask("BASH touch yes.txt\nBASH touch yes.txt\nBASH rm yes.txt\nSAY end")
        ask = await before.opened(asked)
        assert (ask.kind, ask.input["command"], ask.suggestions) == (
            AskKind.PERMISSION,
            "touch yes.txt",
            ("Bash(touch yes.txt)",),
        )
    async with start() as after:
        assert await after.opened(asked) == ask
        assert workspace(tmp_path, "yes.txt") == []
        await after.sessions.decide(ask.id, Decision("allow", scope="session"), "U1")
        assert await after.outcome(asked) == Done()
        assert [one.ok for one in after.results(asked)] == [True, True, False], "asked once; rm is denied by a rule"
        assert workspace(tmp_path, "yes.txt")
        assert len(after.events(asked, AskOpened)) == 1


async def test_a_refusal_and_a_question(start: Start, model: ScriptedModel, tmp_path: Path) -> None:
    async with start() as before:
        asked = await before.ask("ASK Which colour? | Red | Blue\nBASH touch no.txt\nSAY end")
        question = await before.opened(asked)
        assert question.kind is AskKind.QUESTION
        assert [option["label"] for option in question.input["questions"][0]["options"]] == ["Red", "Blue"]
    async with start() as between:
        assert await between.opened(asked) == question
        await between.sessions.decide(question.id, Decision("allow", answers={"Which colour?": "Blue"}), "U1")
        await until(lambda: len(between.events(asked, AskOpened)) == 2, 60)
        permission = between.events(asked, AskOpened)[-1].ask
    async with start() as after:
        await after.sessions.decide(permission.id, Decision("deny", message="not today"), "U1")
        assert await after.outcome(asked) == Done()
        assert workspace(tmp_path, "no.txt") == []
        told = json.dumps(in_conversation(model)[-1].body["messages"])
        assert '\\"Which colour?\\"=\\"Blue\\"' in told
        assert "not today" in told


async def test_a_plan(start: Start, tmp_path: Path) -> None:
    async with start() as before:
        asked = await before.ask("WRITE early.txt a\nPLAN # The plan\\n\\n1. write\nWRITE late.txt b\nSAY end", "plan")
        ask = await before.opened(asked)
        assert (ask.kind, ask.input["plan"]) == (AskKind.PLAN, "# The plan\n\n1. write")
        assert workspace(tmp_path, "early.txt") == [], "in plan mode nothing is written"
    async with start() as after:
        assert await after.opened(asked) == ask
        await after.sessions.decide(ask.id, Decision("allow"), "U1")
        assert await after.outcome(asked) == Done()
        assert workspace(tmp_path, "late.txt"), "the approved plan is carried out"
        assert (await after.sessions.get(asked.session.id)).mode == "auto"
        again = await after.ask("WRITE later.txt c\nSAY end")
        assert await after.outcome(again) == Done()
        assert workspace(tmp_path, "later.txt")


async def test_who_sleeps_over_the_question_is_woken_by_the_answer(start: Start, tmp_path: Path) -> None:
    async with start() as before:
        asked = await before.ask("BASH touch woken.txt\nSAY end")
        ask = await before.opened(asked)
        await before.sessions.park_waiting(datetime.now(UTC) + timedelta(hours=1))

        async def sleeps() -> bool:
            return (await before.sessions.get(asked.session.id)).state is SessionState.ASLEEP

        await until(sleeps, 60)
        assert await before.reaper._host.running() == {}
        await before.sessions.decide(ask.id, Decision("allow"), "U1")
        assert await before.outcome(asked) == Done()
        assert workspace(tmp_path, "woken.txt")
        assert len(before.events(asked, AskOpened)) == 1, "people are asked once"
        assert before.events(asked, Text)[-1].text == "end"


async def test_the_mode_and_the_rules_of_a_running_process_change(start: Start, tmp_path: Path) -> None:
    async with start(Policy()) as flow:
        asked = await flow.ask("BASH touch one.txt\nSAY end")
        assert await flow.outcome(asked) == Done()
        await flow.sessions.set_mode(asked.session.id, "plan", "U1")
        planning = await flow.ask("BASH touch two.txt\nSAY end")
        assert await flow.outcome(planning) == Done()
        assert workspace(tmp_path, "one.txt")
        assert workspace(tmp_path, "two.txt") == []
        await flow.sessions.set_mode(asked.session.id, "auto", "U1")
        await flow.sessions.add_rule("channel", "T1/C1", "deny", "Bash(touch *)", "U1")
        denied = await flow.ask("BASH touch three.txt\nBASH echo hi > four.txt\nSAY end")
        assert await flow.outcome(denied) == Done()
        assert workspace(tmp_path, "three.txt") == []
        assert workspace(tmp_path, "four.txt")
