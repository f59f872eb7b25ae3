"""Sessions that are started from a modal: /flow new, and the two shortcuts."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from githost import git
from slackdoor import Flow
from waiting import until

from bot import branchsearch, shortcut
from bot.branchsearch import BranchSearch
from bot.repositories import Catalog
from bot.shortcut import start as begin
from config.slices.repositories import RepositorySettings
from worklets.errors import CloneFailed
from worklets.git import Git, Source
from worklets.identity import Identity
from worklets.mirrors import Mirrors
from worklets.repositories import Repositories
from worklets.startup import Scripts


async def modal(flow: Flow, user: str) -> dict[str, Any]:
    (view,) = await until(lambda: flow.slack.views(user), what="a modal")
    return dict(view)


def labels(view: dict[str, Any]) -> list[str]:
    return [block["label"]["text"] for block in view["blocks"] if block["type"] == "input"]


def asked(flow: Flow) -> list[str]:
    return [text for process in flow.host.processes.values() for _, text in process.prompts]


def contexts(flow: Flow) -> str:
    return str([context for process in flow.host.processes.values() for context in process.contexts])


async def test_flow_new_asks_for_all_and_starts_there(flow: Flow) -> None:
    await flow.slack.command("maya", "#general", "/flow", "new")
    view = await modal(flow, "maya")
    assert labels(view) == ["What should Claude do?", "Where", "Repository", "Branch", "Model", "Permissions"]
    values = {"text": "look around", "repository": "https://host/a/b.git", "branch": "dev", "model": "opus"}
    assert (await flow.slack.submit("maya", {**values, "mode": "plan"})).ok
    root = await flow.root("#general", "look around")
    await flow.shows("#general", root, "[Retry]")
    (session,) = await flow.sessions.list()
    assert (session.repository, session.branch) == ("https://host/a/b.git", "dev")
    assert (session.model, session.mode, session.user_id) == ("opus", "plan", flow.slack.user("maya").id)
    (process,) = flow.host.processes.values()
    assert ("set_model", {"model": "opus"}) in process.asked
    assert flow.slack.views("maya") == []


@pytest.fixture
async def search(flow: Flow, tmp_path: Path) -> AsyncIterator[BranchSearch]:
    origin, share_dir = tmp_path / "app", tmp_path / "share"
    await asyncio.to_thread(git, "init", "-q", "-b", "main", str(origin))
    await asyncio.to_thread(git, "-C", str(origin), "commit", "-q", "--allow-empty", "-m", "one")
    await asyncio.to_thread(git, "-C", str(origin), "branch", "feature/login")
    repositories = Repositories(
        RepositorySettings(repositories=(("app", str(origin), None), ("web", "/nowhere", None)))
    )
    git_here = Git(os.environ, local=True)
    mirrors = Mirrors(share_dir, Identity.load(share_dir), git_here, resolve=repositories.source)
    made = BranchSearch(repositories, mirrors)
    flow.door.catalog = Catalog(repositories, mirrors, Scripts(None, 60.0, repositories, mirrors), made)
    await mirrors.checkout("app", None, tmp_path / "clone", worklet="w")
    origin.rename(tmp_path / "moved")  # what the search asks is the mirror: the repository itself is out of reach
    yield made
    await made.close()


async def test_a_repository_and_its_branch_are_searched_for(flow: Flow, search: BranchSearch) -> None:
    await flow.slack.command("maya", "#general", "/flow", "new")
    view = await modal(flow, "maya")
    assert "Repository and branch" in labels(view)

    async def offered(typed: str) -> list[str]:
        answer = await flow.slack.suggest("maya", "known", typed)
        assert answer.ok, answer.error
        return [one["value"] for one in answer.ack["options"]]

    assert set(await offered("")) == {"app", "web", "app main", "app feature/login"}
    assert await offered("log") == ["app feature/login"]
    assert await offered("nothing of that name") == []
    with pytest.raises(KeyError, match="does not offer"):
        await flow.slack.submit("maya", {"text": "x", "known": "app missing"})
    assert (await flow.slack.submit("maya", {"text": "look around", "known": "app feature/login"})).ok
    await flow.root("#general", "look around")
    (session,) = await flow.sessions.list()
    assert (session.repository, session.branch) == ("app", "feature/login")


async def test_a_search_is_answered_in_time_while_mirrors_are_slow_to_read(
    flow: Flow, search: BranchSearch, tmp_path: Path
) -> None:
    stuck = asyncio.Event()

    class Slow(Mirrors):
        async def known_branches(self, repository: str, most: int) -> tuple[str, ...] | None:
            await stuck.wait()
            return await super().known_branches(repository, most)

    slow = Slow(tmp_path / "share", search._mirrors._identity, search._mirrors._git)
    slow._resolve = search._mirrors._resolve
    search._mirrors = slow
    await flow.slack.command("maya", "#general", "/flow", "new")
    await modal(flow, "maya")
    answer = await flow.slack.suggest("maya", "known", "")
    assert [one["value"] for one in answer.ack["options"]] == ["app", "web", "!0"], "what is known without them"
    assert answer.ack["options"][2]["text"]["text"] == "… not searched so far: the branches of 2 repositories"
    stuck.set()
    assert search._reading is not None
    await search._reading
    answer = await flow.slack.suggest("maya", "known", "app")
    assert "app main" in [one["value"] for one in answer.ack["options"]]


async def test_the_global_shortcut_starts_where_somebody_chooses(flow: Flow) -> None:
    await flow.slack.shortcut("jonas", "flow_new")
    await modal(flow, "jonas")
    there = flow.slack.channel("#engineering").id
    assert (await flow.slack.submit("jonas", {"text": "hello", "where": there})).ok
    await flow.shows("#engineering", await flow.root("#engineering", "hello"), "[Retry]")


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"text": " "}, "text"),
        ({"text": "x", "branch": "dev"}, "branch"),
        ({"text": "x", "repository": "not an address"}, "repository"),
    ],
)
async def test_what_is_wrong_is_told_in_the_modal(flow: Flow, values: dict[str, str], wrong: str) -> None:
    await flow.slack.command("maya", "#general", "/flow", "new")
    await modal(flow, "maya")
    result = await flow.slack.submit("maya", values)
    assert isinstance(result.ack, dict)
    assert list(result.ack["errors"]) == [wrong]
    assert await flow.sessions.list() == []


async def test_a_place_without_the_bot_is_told_to_the_person(flow: Flow) -> None:
    await flow.slack.command("maya", "#general", "/flow", "new")
    await modal(flow, "maya")
    await flow.slack.submit("maya", {"text": "HOLD hello", "where": flow.slack.channel("#random").id})

    def seen() -> bool:
        return any("Invite me" in flow.slack.visible_text(m) for m in flow.slack.messages("dm", user="maya"))

    await until(seen)


async def test_a_message_is_brought_along_to_another_place(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#random", "the <build> is red since @Maya left")
    await flow.slack.shortcut("maya", "flow_message", ts)
    view = await modal(flow, "maya")
    assert "Bring along" not in labels(view)
    assert "the &lt;build&gt; is red" in str(view["blocks"][0])
    await flow.slack.submit("maya", {"text": "why?", "where": flow.slack.channel("#general").id})
    root = await flow.root("#general", "why?")
    await flow.shows("#general", root, "[Retry]")
    shown = flow.slack.messages("#general", root)[0]
    assert "With a message of another conversation" in flow.slack.visible_text(shown)
    assert "build" not in str((shown["text"], shown["blocks"])), "who reads here may not be allowed to read there"
    (session,) = await flow.sessions.list()
    assert session.name == "why?"
    (text,) = asked(flow)
    first, rest = text.split("\n\n", 1)
    assert first == "why?"
    assert rest.splitlines() == [
        "The message in #random that this is about:",
        "jonas: the <build> is red since @maya left",
    ]


async def test_a_thread_is_brought_along_or_answered_in(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#general", "the build is red")
    await flow.slack.post("maya", "#general", "since the blue commit", thread_ts=ts)
    reply = await flow.slack.post("jonas", "#general", "so revert it", thread_ts=ts)
    await flow.slack.shortcut("maya", "flow_message", reply)
    assert "Bring along" in labels(await modal(flow, "maya"))
    there = flow.slack.channel("#engineering").id
    await flow.slack.submit("maya", {"text": "explain", "bring": "thread", "where": there})
    await flow.shows("#engineering", await flow.root("#engineering", "explain"), "[Retry]")
    assert asked(flow)[0].splitlines()[-3:] == [
        "jonas: the build is red",
        "maya: since the blue commit",
        "jonas: so revert it",
    ]
    await flow.slack.shortcut("maya", "flow_message", reply)
    await until(lambda: flow.slack.views("maya"))
    await flow.slack.submit("maya", {"text": "do it"})
    await flow.shows("#general", ts, "do it", "[Retry]")
    assert asked(flow)[1] == "do it\n\nThe message in #general that this is about:\njonas: so revert it"
    assert "since the blue commit" in contexts(flow), "it was called into a thread, and knows what was said there"


async def test_a_thread_that_cannot_be_read_is_told_in_the_modal(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#random", "private matters")
    await flow.slack.post("maya", "#random", "indeed", thread_ts=ts)
    await flow.slack.shortcut("maya", "flow_message", ts)
    await modal(flow, "maya")
    there = flow.slack.channel("#general").id
    result = await flow.slack.submit("maya", {"text": "explain", "bring": "thread", "where": there})
    assert isinstance(result.ack, dict)
    assert "invite me there" in result.ack["errors"]["bring"]


async def test_a_modal_does_not_wait_for_each_name_of_a_long_thread(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#general", "who is here?")
    for number in range(8):
        flow.slack.add_user(f"writer{number}")
        await flow.slack.post(f"writer{number}", "#general", f"me {number}", thread_ts=ts)
    await flow.slack.shortcut("maya", "flow_message", ts)
    await modal(flow, "maya")
    flow.slack.faults.latency(30.0, "users.info")
    there = flow.slack.channel("#engineering").id
    result = await flow.slack.submit("maya", {"text": "count", "bring": "thread", "where": there})
    assert result.ok, "acknowledged in time"
    await flow.root("#engineering", "count")
    await until(lambda: asked(flow))
    assert f"{flow.slack.user('writer7').id}: me 7" in asked(flow)[0], "whoever cannot be asked for goes by the id"


async def test_a_modal_does_not_wait_until_it_is_known_who_may(flow: Flow) -> None:
    flow.slack.faults.fail("users.info", error="internal_error", times=1_000)
    view = {"id": "V1", "state": {"values": {"b": {"text": {"value": "x"}, "where": {"value": "C1"}}}}}
    async with asyncio.timeout(30):
        assert list(await begin(flow.door, view, "U0NEW")) == ["where"]
    assert await flow.sessions.list() == []


async def test_a_session_that_is_there_goes_on_with_what_is_asked(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow hello")
    await flow.shows("#general", ts, "[Retry]")
    answer = flow.slack.messages("#general", ts)[1]
    await flow.slack.shortcut("jonas", "flow_message", answer)
    await modal(flow, "jonas")
    wrong = await flow.slack.submit("jonas", {"text": "shorter", "repository": "https://host/a/b.git"})
    assert isinstance(wrong.ack, dict)
    assert "has a session already" in wrong.ack["errors"]["repository"]
    assert (await flow.slack.submit("jonas", {"text": "shorter", "model": "haiku"})).ok
    await flow.shows("#general", ts, "shorter")
    (session,) = await flow.sessions.list()
    assert session.model == "haiku"
    assert len(await flow.sessions.turns(session.id)) == 2
    assert "flow: hello" in asked(flow)[1], "its own words can be pointed at"


async def test_a_session_that_begins_while_the_thread_is_read_counts(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    ts = await flow.slack.post("maya", "#general", "hello " * 2000)  # too long for a modal: it is read once more
    read = shortcut._read

    async def overtaken(*given: Any) -> list[dict[str, Any]]:
        found = await read(*given)
        await flow.slack.post("maya", "#general", "@flow mine", thread_ts=ts)
        await flow.shows("#general", ts, "[Retry]")
        return found

    monkeypatch.setattr(shortcut, "_read", overtaken)
    await flow.slack.shortcut("jonas", "flow_message", ts)
    await modal(flow, "jonas")
    wrong = await flow.slack.submit("jonas", {"text": "shorter", "repository": "https://host/a/b.git"})
    assert isinstance(wrong.ack, dict)
    assert "has a session already" in wrong.ack["errors"]["repository"]
    assert len(await flow.sessions.list()) == 1


async def test_branches_stay_known_while_a_login_cannot_be_had(search: BranchSearch, tmp_path: Path) -> None:
    mirrors, away = search._mirrors, asyncio.Event()

    class Closed(Mirrors):
        async def resolve_named(self, named: str) -> Source:
            if away.is_set():
                raise CloneFailed("The secret store is sealed.")
            return await mirrors._resolve(named)

    closed = Closed(tmp_path / "share", mirrors._identity, mirrors._git)
    closed._resolve, search._mirrors = closed.resolve_named, closed
    now = 0.0
    search._clock = lambda: now

    async def offered() -> set[str]:
        found = await search.options("login")
        assert search._reading is not None
        await search._reading
        return {one["value"] for one in found}

    assert await offered() == {"app feature/login"}
    away.set()
    for now in (100.0, 200.0):  # noqa: B007 - the clock reads it
        assert await offered() == {"app feature/login"}
    assert await closed.known_branches("app", 10) is None


async def test_one_look_at_many_mirrors_ends_in_time_and_the_next_goes_on_from_there(
    flow: Flow, search: BranchSearch, tmp_path: Path
) -> None:
    named = [(f"slow{number}", "/nowhere", None) for number in range(5)]
    repositories = Repositories(RepositorySettings(repositories=(*named, ("app", str(tmp_path / "app"), None))))

    class Slow(Mirrors):
        async def known_branches(self, repository: str, most: int) -> tuple[str, ...] | None:
            if repository.startswith("slow"):
                await asyncio.Event().wait()
            return await super().known_branches(repository, most)

    slow = Slow(tmp_path / "share", search._mirrors._identity, search._mirrors._git, resolve=repositories.source)
    hasty = BranchSearch(repositories, slow, seconds=0.2, clock=lambda: 0.0)
    assert flow.door.catalog is not None
    flow.door.catalog = replace(flow.door.catalog, repositories=repositories, search=hasty)
    await flow.slack.command("maya", "#general", "/flow", "new")
    await modal(flow, "maya")
    assert hasty._reading is not None
    await hasty._reading
    assert hasty._due() == ["slow4", "app"], "the others had all four places"

    async def offered(typed: str) -> dict[str, str]:
        answer = await flow.slack.suggest("maya", "known", typed)
        return {one["value"]: one["text"]["text"] for one in answer.ack["options"]}

    hasty._seconds = 600.0
    assert (await offered("main"))["!0"].startswith("… not searched so far: the branches of")
    await until(lambda: "app" in hasty._branches)
    assert await offered("main") == {
        "app main": "app · main", "!0": "… not searched so far: the branches of 5 repositories"
    }  # fmt: skip
    result = await flow.slack.submit("maya", {"text": "look around", "known": "!0"})
    assert list(result.ack["errors"]) == ["known"]
    await hasty.close()


async def test_of_many_repositories_fewer_branches_are_kept(search: BranchSearch) -> None:
    few = BranchSearch(search._repositories, search._mirrors, most=2)
    few.refresh()
    assert few._reading is not None
    await few._reading
    assert len(few._branches["app"]) == 1
    assert (await few.options(""))[-1]["text"]["text"] == "… of 1 repository only the newest 1 branches are searched"
    assert len(await search.options("app")) == 3, "of two repositories all are"
    await few.close()


async def test_the_loop_goes_on_while_branches_are_searched(
    flow: Flow, search: BranchSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, goes_on = branchsearch.found, threading.Event()

    def slow(*given: Any) -> list[Any]:
        assert goes_on.wait(30), "nobody else had a turn meanwhile"
        return real(*given)

    monkeypatch.setattr(branchsearch, "found", slow)
    search.refresh()
    assert search._reading is not None
    await search._reading
    search._branches = {"app": tuple(f"feature/{n}" for n in range(20_000))}
    searching = asyncio.create_task(search.options("feature 1"))
    asyncio.get_running_loop().call_later(0.1, goes_on.set)
    assert len(await searching) == 100
