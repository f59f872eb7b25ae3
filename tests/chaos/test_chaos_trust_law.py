"""The law of trust: each planted violation is found, and none where there is none."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import schema
from law_trust import TrustLaw
from waiting import until

from sessions.db import open_database
from sessions.errors import StoreUnavailable
from sessions.store import Store
from sessions.types import Prompt, ThreadId
from simulator.slack import SlackSimulator

PUSH = '{"repository": "app", "branch": "flow/one"}'
HOST = '{"host": "a.askable.test", "port": 80}'
NOW = "2026-01-01 00:00:00.000000"


@dataclass
class Books:
    """The world of one run that kept the law: a push, a host, a preview, and what lies outside."""

    slack: SlackSimulator
    share_dir: Path
    pushed: list[tuple[str, str]] = field(default_factory=lambda: [("flow/one", "d0x")])
    heard: Counter[str] = field(default_factory=lambda: Counter({"a.askable.test": 2}))
    vendor: Any = field(default_factory=lambda: SimpleNamespace(seen=[{"authorization": "own"}], authorization="own"))
    living: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    root: str = ""

    def updates(self) -> list[tuple[str, str]]:
        return self.pushed

    def tokens(self) -> list[str]:
        return self.living

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.share_dir / "db.sqlite")) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def answered(self, ask: str, kind: str, given: str, behavior: str) -> None:
        tool = "mcp__flow__git_push" if kind == "permission" else "egress"
        self.run(
            "insert into audit (at, session_id, turn_id, ask_id, kind, tool, input, behavior) values "
            f"('{NOW}', 's', 't', '{ask}', '{kind}', '{tool}', '{given}', '{behavior}')"
        )

    async def offer(self, preview: str, thread: str) -> None:
        told = {"event_type": "flow_preview", "event_payload": {"id": preview}}
        channel = self.slack.channel("general")
        self.slack._messages.by_app(self.slack.app, channel, {"text": "runs"}, thread, metadata=told)

    @property
    def law(self) -> TrustLaw:
        return TrustLaw(self.slack, cast(Any, self), cast(Any, self), self.share_dir)


async def _stored(store: Store, prompt: Prompt) -> Any:
    with suppress(StoreUnavailable):  # it is fast or nothing, and this machine may be busy
        return await store.submit(prompt)


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    await schema.migrated(f"sqlite://{tmp_path / 'db.sqlite'}")
    async with SlackSimulator() as slack:
        made = Books(slack, tmp_path)
        made.root = await slack.post("maya", "general", "@Flow hello")
        thread = ThreadId("T", slack.channel("general").id, made.root)
        database = open_database(f"sqlite://{tmp_path / 'db.sqlite'}")
        store = Store(database)
        stored = await until(lambda: _stored(store, Prompt(thread, "C:1", made.root, "U", "hello")), timeout=60)
        await database.close()
        made.run(
            "insert into previews (id, session_id, port, title, path, created_at) values "
            f"('p', '{stored.submitted.session.id}', 3000, 'shop', '/', '{NOW}')",
        )
        made.answered("one", "permission", PUSH, "allow")
        made.answered("two", "egress", HOST, "allow")
        await made.offer("p", made.root)
        yield made


async def test_a_run_that_kept_the_law_has_no_violations(books: Books) -> None:
    assert books.law.violations() == []
    assert books.law.left_over() == []


PLANTED: dict[str, tuple[Callable[[Books], Any], str]] = {
    "a push done twice": (lambda b: b.pushed.append(("flow/one", "d0x")), "was pushed to flow/one 2 times"),
    "a push that nobody let": (lambda b: b.pushed.append(("flow/one", "d1x")), "the audit knows of 1"),
    "a push to main": (lambda b: b.pushed.append(("main", "d1x")), "which is protected"),
    "a question answered twice": (lambda b: b.answered("one", "permission", PUSH, "deny"), "was answered 2 times"),
    "a host that people refused": (
        lambda b: b.run("update audit set behavior = 'deny' where kind = 'egress'"), "a.askable.test was reached",
    ),
    "a host that nobody was asked for": (lambda b: b.heard.update(["b.askable.test"]), "people said nothing"),
    "another's credential": (lambda b: b.vendor.seen.append({"authorization": "x"}), "other credentials than its own"),
    "a preview that is not offered": (lambda b: b.run("update previews set id = 'q'"), "the preview q is not offered"),
    "what a visitor saw": (lambda b: b.seen.append("another page"), "another page"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_violation_is_found(books: Books, name: str) -> None:
    plant, sentence = PLANTED[name]
    plant(books)
    found = books.law.violations()
    assert any(sentence in violation for violation in found), found


async def test_a_preview_that_is_offered_twice_is_found(books: Books) -> None:
    await books.offer("p", books.root)
    assert any("is offered 2 times" in one for one in books.law.violations())


async def test_tokens_that_are_left_are_found(books: Books) -> None:
    books.living.append("flow-worklet-s")
    books.run(f"insert into vault_tokens (accessor, session_id, expires_at) values ('a', 's', '{NOW}')")
    assert len(books.law.left_over()) == 2
