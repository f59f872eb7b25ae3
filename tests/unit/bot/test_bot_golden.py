"""Whole conversations of the real CLI (tests/unit/worklets/recorded) and the messages that they become.

`golden/<case>.json` holds what the thread shows whenever Claude asks, and at the end of each turn. After a change
of looks that is meant: `PYTHONPATH=. python tests/unit/bot/test_bot_golden.py`, then read the difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bot.parts import common, plain, sectioned, shortened, worded
from bot.renderer import TurnView
from sessions.asks import Ask, AskState, Decision, ask_id, decided, kind_of
from sessions.events import AskClosed, AskOpened, Queued, Settled, Started
from sessions.types import Done, Failed, Interrupted, SessionId, TurnId
from simulator.text import pings
from simulator.validation import check_content
from worklets.events import AgentEvent, Asked, ToolFinished, TurnEnded
from worklets.wire import Decoder

GOLDEN = Path(__file__).parent / "golden"
RECORDED = Path(__file__).parents[1] / "worklets/recorded"
CASES = sorted(path.stem for path in RECORDED.glob("*.jsonl"))
SESSION = SessionId("6f6b3c52-0000-4000-8000-000000000001")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECONDS = 12.0


class Conversation:
    """A recording, as the thread shows it."""

    def __init__(self) -> None:
        self.snapshots: list[dict[str, Any]] = []
        self._turns = 0
        self._asks: dict[str, Ask] = {}
        self._begin()

    def _begin(self) -> None:
        self._turns += 1
        self._view = TurnView(TurnId(f"turn-{self._turns}"))
        self._fresh = True

    def hear(self, event: AgentEvent) -> None:
        if self._fresh:
            self._tell(Queued(0), Started())
            self._fresh = False
        if isinstance(event, ToolFinished) and (ask := self._asks.pop(event.tool_id, None)) is not None:
            made = Decision("allow" if event.ok else "deny", message="" if event.ok else event.output[:80])
            self._tell(
                AskClosed(replace(ask, state=decided(ask.kind, made), decided_by="U1", decided_at=NOW, decision=made))
            )
        self._tell(event)
        if isinstance(event, Asked):
            self._asks[event.tool_id] = self._ask(event)
            self._tell(AskOpened(self._asks[event.tool_id]))
            self._keep("asks")
        elif isinstance(event, TurnEnded):
            outcome = {
                "done": Done(),
                "failed": Failed(event.error or "It failed."),
                "interrupted": Interrupted("U1"),
            }[event.outcome]
            self._tell(Settled(outcome, SECONDS))
            self._keep("ends")
            self._begin()

    def _ask(self, asked: Asked) -> Ask:
        return Ask(
            id=ask_id(SESSION, asked.tool_id), session_id=SESSION, turn_id=TurnId(f"turn-{self._turns}"),
            kind=kind_of(asked.tool), tool=asked.tool, tool_id=asked.tool_id, input=asked.input,
            suggestions=asked.suggestions, state=AskState.OPEN, asked_at=NOW, expires_at=None,
        )  # fmt: skip

    def _tell(self, *events: Any) -> None:
        for event in events:
            self._view.apply(event)
            for part in self._view.parts():  # whatever is sent, Slack takes, in each of its forms
                for form in (part, common(part), sectioned(part), worded(part), shortened(plain(part))):
                    content = {"text": form.text, "blocks": list(form.blocks)}
                    check_content(content)
                    assert pings(content) <= {"@U1"}

    def _keep(self, moment: str) -> None:
        messages = [{"text": part.text, "blocks": list(part.blocks)} for part in self._view.parts()]
        self.snapshots.append({"turn": self._turns, "moment": moment, "messages": messages})


def events(case: str) -> Iterator[AgentEvent]:
    decoder = Decoder()
    for line in (RECORDED / f"{case}.jsonl").read_bytes().splitlines():
        yield from decoder.feed(line)


def conversation(case: str) -> list[dict[str, Any]]:
    made = Conversation()
    for event in events(case):
        made.hear(event)
    return made.snapshots


@pytest.mark.parametrize("case", CASES)
def test_a_conversation_looks_as_it_did(case: str) -> None:
    golden = json.loads((GOLDEN / f"{case}.json").read_text(encoding="utf-8"))
    assert conversation(case) == golden


def test_every_kind_of_conversation_is_among_them() -> None:
    kinds = {"long", "thinking_tools", "plan", "question", "permission", "agent", "overloaded_once", "commands"}
    assert kinds <= set(CASES)
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES), "golden files of cases that are gone, or new"


def test_a_long_answer_is_cut_where_a_reader_would() -> None:
    (end,) = conversation("long")
    texts = [block["text"] for message in end["messages"] for block in message["blocks"] if block["type"] == "markdown"]
    assert len(texts) > 2
    assert all(text.count("```") % 2 == 0 for text in texts)
    assert texts[1].startswith("```python\n")
    assert sum("| service |" in text for text in texts) == 1
    assert "https://example.com (https://example.org/else)" in texts[0]


def renew() -> None:
    for old in GOLDEN.glob("*.json"):
        old.unlink()
    for case in CASES:
        text = json.dumps(conversation(case), indent=1, ensure_ascii=False)
        (GOLDEN / f"{case}.json").write_text(text + "\n", encoding="utf-8")
        print(case)


if __name__ == "__main__":
    renew()
