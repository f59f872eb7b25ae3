"""The law itself: a lawful run passes, and each planted violation is found and named."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import schema
from law import Law

from simulator.model import Request, ScriptedModel
from simulator.slack import SlackSimulator

SESSION = "11111111-1111-4111-8111-111111111111"
NOW = "2026-01-01 00:00:00.000000"


class Run:
    """A lawful run of two turns in one thread, made by hand; each test spoils it in one place."""

    def __init__(self, slack: SlackSimulator, model: ScriptedModel, share_dir: Path) -> None:
        self.slack, self.model = slack, model
        self.law = Law(slack, model, share_dir)
        self._path = share_dir / "db.sqlite"
        self.asked: list[str] = []
        self.texts = ["SAY the first answer", "BASH make\nSAY the second answer"]

    async def make(self) -> None:
        root = await self.slack.post("maya", "general", f"@Flow {self.texts[0]}")
        self.asked = [root, await self.slack.post("jonas", "general", self.texts[1], thread_ts=root)]
        self.channel = self.slack.channel("general")
        self.run(
            "insert into sessions (id, user_id, name, status, created_at, updated_at, team, channel, thread_ts,"
            " claude_session_id, has_history, worklet, last_activity_at, fence, seq)"
            " values (?, 'U1', 'x', 'idle', ?, ?, 'T1', ?, ?, ?, 1, 'w1', ?, 1, 0)",
            SESSION, NOW, NOW, self.channel.id, root, SESSION, NOW,
        )  # fmt: skip
        for number, (ts, text) in enumerate(zip(self.asked, self.texts, strict=True)):
            moment = f"2026-01-01 00:00:0{number}.000000"
            self.run(
                "insert into turns (id, session_id, team, channel, source_id, ts, user_id, text, state, created_at,"
                " started_at, ended_at, delivered) values (?, ?, 'T1', ?, ?, ?, 'U1', ?, 'done', ?, ?, ?, 1)",
                f"t{number}", SESSION, self.channel.id, f"{self.channel.id}:{ts}", ts, text, moment, moment, moment,
            )  # fmt: skip
        self.event("t0", type="Text", text="the first answer")
        self.event("t1", type="ToolStarted", tool_id="x", name="Bash", input={}, parent=None)
        self.event("t1", type="ToolFinished", tool_id="x", ok=True, output="ran=1\n", parent=None)
        self.event("t1", type="Text", text="the second answer")
        self.first = self.show("t0", 0, _markdown("the first answer"), _context("1.0 s"))
        self.second = self.show("t1", 0, _context("✓ Bash `make`"), _markdown("the second answer"), _context("1.0 s"))
        self.put(self.texts[0])
        self.put(self.texts[0], self.texts[1])
        self.put(self.texts[0], self.texts[1], results=1)

    def run(self, statement: str, *values: Any) -> None:
        with sqlite3.connect(self._path) as connection:
            connection.execute(statement, values)
        connection.close()

    def event(self, turn: str, **body: Any) -> None:
        self.run(
            "insert into events (session_id, turn_id, epoch, seq, part, body, created_at)"
            " values (?, ?, 'e', (select count(*) from events), 0, ?, ?)",
            SESSION, turn, json.dumps(body), NOW,
        )  # fmt: skip

    def show(self, turn: str, part: int, *blocks: dict[str, Any]) -> Any:
        metadata = {"event_type": "flow_turn", "event_payload": {"turn": turn, "part": part}}
        content = {"text": "", "blocks": list(blocks)}
        return self.slack._messages.by_app(self.slack.app, self.channel, content, self.asked[0], metadata=metadata)

    def hide(self, turn: str, *parts: int) -> None:
        """Those messages of the turn are gone."""
        for record in list(self.channel.messages.values()):
            payload = (record.metadata or {}).get("event_payload") or {}
            if payload.get("turn") == turn and payload.get("part") in parts:
                self.slack._messages.delete(record)

    def put(self, *texts: str, results: int = 0) -> None:
        """A request to the model, answered whole."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": text} for text in texts]
        result = {"role": "user", "content": [{"type": "tool_result", "content": "ok"}]}
        headers = {"x-claude-code-session-id": SESSION}
        body = {"max_tokens": 100, "messages": messages + [result] * results}
        request = Request(time.monotonic(), "/v1/messages", body, headers)
        self.model.requests.append(request)
        self.model.answered.append(request)


def _markdown(text: str) -> dict[str, Any]:
    return {"type": "markdown", "text": text}


def _context(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text}]}


def _button() -> dict[str, Any]:
    return {"type": "actions", "elements": [{"type": "button", "action_id": "stop", "text": {"text": "Stop"}}]}


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    share_dir = tmp_path / "data"
    share_dir.mkdir()
    await schema.migrated(f"sqlite://{share_dir / 'db.sqlite'}")
    async with SlackSimulator() as slack, ScriptedModel() as model:
        made = Run(slack, model, share_dir)
        await made.make()
        yield made


async def test_a_lawful_run_has_no_violation(run: Run) -> None:
    assert await run.law.at_rest(5) == []


def _blocks(run: Run, *blocks: dict[str, Any]) -> None:
    run.slack._messages.update(run.second, {"blocks": list(blocks)})


TOOL, END = _context("✓ Bash `make`"), _markdown("the second answer")


async def test_what_a_tool_printed_is_no_tool_and_a_diff_may_stay(run: Run) -> None:
    diff = {"type": "actions", "elements": [{"type": "button", "action_id": "diff_1", "text": {"text": "Diff"}}]}
    _blocks(run, _context("✓ Bash `make`\n```\n✓ one passed\n▸ two\n⏳ three\n```"), diff, END)
    assert await run.law.at_rest(5) == []


def _ask(run: Run, state: str, *blocks: dict[str, Any]) -> None:
    """The second turn asked something, and shows these blocks below its headline; the answer is below that."""
    run.run(
        "insert into asks (id, session_id, turn_id, kind, tool, tool_id, request_id, epoch, input, suggestions, state,"
        " asked_at, decided_by, given, parked)"
        " values ('a1', ?, 't1', 'plan', 'ExitPlanMode', 'x', 'r', 'e', '{}', '[]', ?, ?, 'U1', 1, 0)",
        SESSION, state, NOW,
    )  # fmt: skip
    _blocks(run, TOOL)
    headline = {"type": "section", "text": {"type": "mrkdwn", "text": "📋 *Claude's plan:*"}}
    run.show("t1", 1, headline, _markdown("no words of the answer"), *blocks)
    run.show("t1", 2, END)


async def test_what_was_asked_and_decided_is_lawful(run: Run) -> None:
    _ask(run, "allowed", _context("✓ <@U1> approved the plan."))
    assert await run.law.at_rest(5) == []


PLANTED: dict[str, tuple[Callable[[Run], Any], str]] = {
    "a doubled message": (lambda r: r.show("t0", 0, _markdown("the first answer")), "stands 2 times in the thread"),
    "a missing message": (lambda r: r.slack._messages.delete(r.first), "shows the parts []"),
    "a second part without a first": (lambda r: r.show("t0", 2, _markdown("x")), "shows the parts [0, 2]"),
    "a lost word": (lambda r: _blocks(r, TOOL, _markdown("the answer")), "does not show its transcript"),
    "a word too many": (lambda r: _blocks(r, TOOL, END, _markdown("more")), "does not show its transcript"),
    "words said twice": (lambda r: _blocks(r, TOOL, END, END), "does not show its transcript"),
    "a lost tool": (lambda r: _blocks(r, END), "used 1 tools and shows 0"),
    "a tool that seems to run": (lambda r: _blocks(r, _context("▸ Bash `make`"), END), "looks alive"),
    "a status left over": (lambda r: _blocks(r, TOOL, END, _context("⏳ Thinking…")), "looks alive"),
    "a button left over": (lambda r: _blocks(r, TOOL, END, _button()), "has the buttons ['stop']"),
    "a foreign message": (
        lambda r: r.slack._messages.by_app(r.slack.app, r.channel, {"text": "hm"}, r.asked[0]), "belongs to no turn",
    ),
    "a message of an unknown turn": (lambda r: r.show("t9", 0, END), "not in the table"),
    "a lost transcript": (lambda r: r.run("delete from events where turn_id = 't0'"), "is not what the model said"),
    "an open turn": (lambda r: r.run("update turns set ended_at = null, state = 'running'"), "stuck in running"),
    "an undelivered turn": (lambda r: r.run("update turns set delivered = 0"), "not delivered"),
    "a busy session": (lambda r: r.run("update sessions set status = 'working'"), "stuck in working"),
    "an unheard prompt": (lambda r: r.run("delete from turns where id = 't1'"), "has no turn"),
    "an unsaid failure": (
        lambda r: r.run("update turns set state = 'failed', error = 'It broke.' where id = 't1'"),
        "the thread does not say why: It broke.",
    ),
    "an unsaid stop": (lambda r: r.run("update turns set state = 'interrupted'"), "which the thread does not say"),
    "a withdrawn turn that stands": (lambda r: r.run("update turns set state = 'withdrawn'"), "was withdrawn, but"),
    "a command run twice": (
        lambda r: r.event("t1", type="ToolFinished", tool_id="x", ok=True, output="ran=2"), "ran 2 times",
    ),
    "a prompt never put": (lambda r: r.model.requests.clear(), "was never put to Claude"),
    "a prompt put twice": (lambda r: r.put(r.texts[0], r.texts[1], r.texts[1]), "stands 2 times in the conversation"),
    "a prompt answered twice": (lambda r: r.put(r.texts[0]), "answered turn t0 ('SAY the first answer') 2 times"),
    "an ask that shows another end": (
        lambda r: _ask(r, "expired", _context("✗ <@U1> denied it.")), "asked something that is expired",
    ),
    "an ask without an end": (lambda r: _ask(r, "withdrawn"), "asked something that is withdrawn"),
    "an ask that still has buttons": (
        lambda r: _ask(r, "allowed", _context("✓ approved"), _button()), "has the buttons ['stop']",
    ),
    "an ask that was never shown": (
        lambda r: (_ask(r, "allowed"), _blocks(r, TOOL, END), r.hide("t1", 1, 2)), "asked something that is allowed",
    ),
    "an ask that nobody asked": (
        lambda r: (_ask(r, "allowed", _context("✓ approved")), r.run("delete from asks")), "that nobody asked",
    ),
    "work out of order": (
        lambda r: r.run("update turns set started_at = '2027-01-01 00:00:00.000000' where id = 't0'"),
        "was worked on before",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_violation_is_found(run: Run, name: str) -> None:
    plant, sentence = PLANTED[name]
    plant(run)
    found = await run.law.at_rest(0)
    assert any(sentence in violation for violation in found), found


async def test_messages_in_the_wrong_order_are_found(run: Run) -> None:
    run.slack._messages.delete(run.first)
    run.show("t0", 0, _markdown("the first answer"), _context("1.0 s"))
    assert [v for v in await run.law.at_rest(0) if "is shown above" in v]


async def test_an_explained_turn_may_be_repeated_and_broken_off_but_not_make_words_up(run: Run) -> None:
    run.run("update turns set state = 'failed', error = 'Claude is gone.' where id = 't1'")
    run.run("delete from events where turn_id = 't1' and body like '%Text%'")
    run.put(run.texts[0], run.texts[1], run.texts[1])
    _blocks(run, TOOL, _markdown("the second"), _context("⚠️ Claude is gone."))
    assert await run.law.at_rest(0) == []
    _blocks(run, TOOL, _markdown("the fourth"), _context("⚠️ Claude is gone."))
    assert [v for v in await run.law.at_rest(0) if "words that nobody said" in v]


async def test_what_a_dying_gateway_was_passing_on_may_be_asked_for_once_more(run: Run) -> None:
    run.law.gateway_died()
    run.model.answered.append(run.model.requests[-1])
    assert await run.law.at_rest(0) == []
    run.model.answered.append(run.model.requests[-1])
    assert [v for v in await run.law.at_rest(0) if "answered turn t1" in v]
    run.model.answered.pop()
    run.put(run.texts[0])
    assert [v for v in await run.law.at_rest(0) if "answered turn t0" in v], "that one had arrived"


async def test_what_is_left_over_is_found(run: Run) -> None:
    (run.law.share_dir / "instance.json").write_text('{"instance": "0badcafe"}')
    run.run("update sessions set status = 'asleep'")
    assert await run.law.left_over() == []
    for path in ("worklets/w9/work", "worklets/w1/run/relay.sock"):
        (run.law.share_dir / path).mkdir(parents=True)
    run.run("update sessions set status = 'idle'")
    run.law.tmp = run.law.share_dir.parent
    (run.law.tmp / "flow-clone-1").mkdir()
    found = await run.law.left_over()
    for sentence in ("w9 has no session", "relay.sock is left", "is idle", "flow-clone-1 is left"):
        assert any(sentence in violation for violation in found), (sentence, found)
