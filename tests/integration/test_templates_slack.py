"""Templates in Slack: made, edited, looked for, started from, deleted; and who may do so."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from slackdoor import Flow
from waiting import until

from bot.templates import save, seen
from bot.templating import applied, from_template
from config.settings import AccessSettings
from sessions.templates import Draft, Template, TemplateError, TemplateNotFound, drafted
from sessions.types import Prompt, ThreadId

REVIEW = drafted(
    "review",
    "looks at code",
    {
        "repository": "https://host/a/api.git",
        "branch": "dev",
        "model": "opus",
        "mode": "plan",
        "startup_script": "node",
        "prompt": "Review what is new.",
    },
)


async def made(flow: Flow, user: str = "maya", draft: Draft = REVIEW) -> Template:
    return await flow.sessions.templates.add(draft, flow.slack.user(user).id)


async def modal(flow: Flow, user: str) -> dict[str, Any]:
    (view,) = await until(lambda: flow.slack.views(user), what="a modal")
    return dict(view)


def asked(flow: Flow) -> list[str]:
    return [text for process in flow.host.processes.values() for _, text in process.prompts]


async def said(flow: Flow, user: str, command: str) -> str:
    result = await flow.slack.command(user, "#general", "/flow", command)
    return json.dumps(result.ack, ensure_ascii=False)


async def test_a_modal_makes_one_and_another_edits_it(flow: Flow) -> None:
    await flow.slack.command("maya", "#general", "/flow", "template new")
    await modal(flow, "maya")
    wrong = {"name": "Not a name", "mode": "plan", "rest": '{"resources": {"memory": "2x"}}', "branch": "dev"}
    result = await flow.slack.submit("maya", wrong)
    assert isinstance(result.ack, dict)
    assert set(result.ack["errors"]) == {"name", "rest"}
    assert "is not a size" in result.ack["errors"]["rest"]
    for bad in ("{", "[]", '{"mode": "ask"}', "[" * 2_000):
        result = await flow.slack.submit("maya", {"name": "a", "rest": bad})
        assert isinstance(result.ack, dict)
        assert list(result.ack["errors"]) == ["rest"]
    values = {"name": "API", "description": "the api", "repository": "https://host/a/api.git", "branch": "dev"}
    values |= {"model": "opus", "mode": "plan", "visible": "public", "prompt": "look", "instructions": "be brief"}
    values |= {"rest": '{"resources": {"memory": "1g"}, "env": {"LEVEL": "5"}}'}
    assert (await flow.slack.submit("maya", values)).ok
    template = await flow.sessions.templates.find("api", flow.slack.user("jonas").id)
    assert template is not None
    assert template.user_id == flow.slack.user("maya").id
    assert template.config.stored() == {
        "repository": "https://host/a/api.git",
        "branch": "dev",
        "model": "opus",
        "mode": "plan",
        "prompt": "look",
        "instructions": "be brief",
        "resources": {"memory": 1 << 30},
        "env": {"LEVEL": "5"},
    }
    listed = await said(flow, "maya", "templates api")
    assert "memory 1 GiB" in listed
    message = flow.slack.ephemerals("maya")[-1]
    await flow.slack.click("maya", message, "template_edit")
    view = await modal(flow, "maya")
    values = {block["block_id"]: block["element"].get("initial_value") for block in view["blocks"]}
    assert values["name"] == "api"
    assert json.loads(values["rest"] or "")["env"] == {"LEVEL": "5"}
    assert (await flow.slack.submit("maya", {"description": "other words", "visible": "private"})).ok
    changed = await flow.sessions.templates.get(template.id)
    assert (changed.description, changed.is_public, changed.config) == ("other words", False, template.config)
    await flow.slack.click("maya", message, "template_edit")
    view = await modal(flow, "maya")
    await flow.sessions.templates.change(template.id, REVIEW)
    result = await flow.slack.submit("maya", {"description": "late"})
    assert isinstance(result.ack, dict)
    assert "Somebody else changed the template meanwhile" in result.ack["errors"]["name"]
    await flow.slack.close_view("maya")
    assert "Only its owner and admins" in str(await refused(flow, view, template)), "whatever a client sends"


async def refused(flow: Flow, view: dict[str, Any], template: Template) -> dict[str, str]:
    """What jonas is told who sends maya's modal in."""
    await flow.sessions.templates.change(template.id, replace(REVIEW, is_public=True))
    values = {block["block_id"]: {block["block_id"]: {"value": "x"}} for block in view["blocks"][:1]}
    return await save(flow.door, {**view, "state": {"values": values}}, flow.slack.user("jonas").id)


async def test_it_is_started_from_by_command_and_the_thread_says_so(flow: Flow) -> None:
    template = await made(flow)
    await flow.slack.command("maya", "#general", "/flow", "start review fix the login")
    root = await flow.root("#general", "fix the login")
    shown = await flow.shows("#general", root, "[Retry]")
    assert any("Started from the template `review`" in text for text in shown)
    assert any("template review" in text for text in shown[1:]), "below the answer too"
    (session,) = await flow.sessions.list()
    assert (session.template, session.repository, session.branch) == (template.id, "https://host/a/api.git", "dev")
    assert (session.model, session.mode, session.startup_script) == ("opus", "plan", "node")
    assert await flow.sessions.templates.config_of(session.id) == REVIEW.config


async def test_its_prompt_is_asked_where_nobody_says_one_and_what_they_say_goes_first(flow: Flow) -> None:
    await made(flow)
    await flow.slack.command("maya", "#general", "/flow", "template=review repo=https://host/b/web.git branch=x")
    root = await flow.root("#general", "Review what is new.")
    await flow.shows("#general", root, "[Retry]")
    (session,) = await flow.sessions.list()
    assert (session.repository, session.branch, session.model) == ("https://host/b/web.git", "x", "opus")


async def test_a_mention_starts_from_one_and_hears_of_one_that_is_not_there(flow: Flow) -> None:
    await made(flow)
    ts = await flow.slack.post("maya", "#general", f"<@{flow.door.me.user_id}> template=review")
    await flow.shows("#general", ts, "template review", "[Retry]")
    await flow.slack.post("maya", "#general", f"<@{flow.door.me.user_id}> and template=none", thread_ts=ts)
    await flow.slack.post("maya", "#general", f"<@{flow.door.me.user_id}> template=none go on", thread_ts=ts)
    await until(lambda: asked(flow)[-1:] == ["go on"], what="in a thread with a session a template's name is nothing")
    gone = await flow.slack.post("maya", "#general", f"<@{flow.door.me.user_id}> template=reviw look")

    def told() -> bool:
        return sum("did you mean review" in str(one["text"]) for one in flow.slack.ephemerals("maya")) == 1

    await until(told, what="a hint")
    assert await flow.sessions.find(flow_thread(flow, gone)) is None
    secret = await flow.slack.post("jonas", "#general", f"<@{flow.door.me.user_id}> template=review look")
    await until(lambda: "no template called review" in str(flow.slack.ephemerals("jonas")), what="a refusal")
    assert await flow.sessions.find(flow_thread(flow, secret)) is None


async def test_the_second_event_of_a_mention_is_told_nothing(flow: Flow) -> None:
    """Slack sends two events of a mention, some of them long after the first one was taken."""
    await made(flow)
    ts = await flow.slack.post("maya", "#general", f"<@{flow.door.me.user_id}> template=review")
    await flow.shows("#general", ts, "template review", "[Retry]")
    thread = flow_thread(flow, ts)
    again = Prompt(thread, f"{thread.channel}:{ts}", ts, flow.slack.user("maya").id, "", template="review")
    (turn,) = await flow.sessions.turns((await flow.sessions.list())[0].id)
    assert again.source_id == turn.source_id
    submitted = await flow.sessions.submit(await from_template(flow.sessions, again))
    assert submitted is not None
    assert not submitted.fresh
    with pytest.raises(TemplateError, match="has a session already"):
        await from_template(flow.sessions, replace(again, source_id=f"{thread.channel}:9.000000"))


def flow_thread(flow: Flow, ts: str) -> ThreadId:
    return ThreadId(flow.door.me.team_id, flow.slack.channel("#general").id, ts)


async def test_who_wants_to_be_asked_is_asked_whatever_a_template_says(flow: Flow) -> None:
    await made(flow, draft=drafted("wild", "", {"mode": "auto"}))
    maya = flow.slack.user("maya").id
    await flow.sessions.options.set("user", maya, "mode", "plan", maya)
    await flow.slack.command("maya", "#general", "/flow", "start wild go on")
    await flow.root("#general", "go on")
    (session,) = await flow.sessions.list()
    assert session.mode == "plan"


async def test_an_edit_that_leaves_only_the_template_changes_nothing(flow: Flow) -> None:
    await made(flow)
    busy = await flow.slack.post("maya", "#general", f"<@{flow.door.me.user_id}> HOLD on")
    await flow.process("HOLD on")
    ts = await flow.slack.post("maya", "#general", f"<@{flow.door.me.user_id}> template=review", thread_ts=busy)
    refusals = "This thread has a session already"
    await until(lambda: refusals in str(flow.slack.ephemerals("maya")), what="a refusal")
    await flow.slack.edit("maya", ts, f"<@{flow.door.me.user_id}> template=review now")
    (session,) = await flow.sessions.list()
    assert [turn.text for turn in await flow.sessions.turns(session.id)] == ["HOLD on"]


async def test_start_is_for_claude_where_no_template_is_meant(flow: Flow) -> None:
    await made(flow)
    await flow.slack.command("maya", "#general", "/flow", "start the server and look at it")
    await flow.shows("#general", await flow.root("#general", "start the server"), "[Retry]")
    (session,) = await flow.sessions.list()
    assert session.template is None
    assert "did you mean review" in await said(flow, "maya", "start reviw it")
    assert len(await flow.sessions.list()) == 1
    await made(flow, draft=drafted("empty", "", {}))
    assert "no prompt of its own" in await said(flow, "maya", "start empty")
    assert "no repository" in await said(flow, "maya", "start empty branch=x template=empty look")


async def test_the_start_modal_offers_those_that_somebody_may_use(flow: Flow) -> None:
    mine = await made(flow)
    await made(flow, "jonas", drafted("his", "", {}))
    public = await made(flow, "jonas", drafted("open", "for all", {}, is_public=True))
    listed = await said(flow, "maya", "templates")
    assert "review" in listed
    assert "his" not in [word.strip('*"') for word in listed.split()]
    await flow.slack.click("maya", flow.slack.ephemerals("maya")[-1], "template_start")
    view = await modal(flow, "maya")
    (select,) = [block["element"] for block in view["blocks"] if block.get("block_id") == "template"]
    assert [one["value"] for one in select["options"]] == [mine.id, public.id]
    assert select["initial_option"]["value"] == mine.id
    assert (await flow.slack.submit("maya", {"where": flow.slack.channel("#general").id})).ok
    await flow.shows("#general", await flow.root("#general", "Review what is new."), "[Retry]")
    (session,) = await flow.sessions.list()
    assert session.template == mine.id


async def test_everybody_may_look_at_all_of_a_public_one(flow: Flow) -> None:
    config = {"instructions": "Be brief.\u202e" + "x" * 2_900, "resources": {"cpus": 1}}
    await made(flow, draft=drafted("open", "", config, is_public=True))
    private = await made(flow, draft=drafted("private", "", config))
    await said(flow, "jonas", "templates")
    await flow.slack.click("jonas", flow.slack.ephemerals("jonas")[-1], "template_show")
    text = str((await modal(flow, "jonas"))["blocks"])
    assert "Be brief.\\\\u202e" in text, "nothing in it is hidden"
    assert text.count("x") > 2_800
    assert "cpus" in text
    with pytest.raises(TemplateNotFound):
        await seen(flow.door, private.id, flow.slack.user("jonas").id)


async def test_the_home_tab_starts_from_one(flow: Flow) -> None:
    template = await made(flow)
    await flow.slack.open_home("maya")

    def shown() -> list[dict[str, Any]]:
        blocks = (flow.slack.home("maya") or {}).get("blocks", [])
        return [one["accessory"] for one in blocks if one.get("accessory", {}).get("action_id") == "template_start"]

    (button,) = await until(shown, what="the template at home")
    await flow.slack._interactions.click_home(flow.slack.app, flow.slack.user("maya"), button)
    view = await modal(flow, "maya")
    (select,) = [block["element"] for block in view["blocks"] if block.get("block_id") == "template"]
    assert select["initial_option"]["value"] == template.id


async def test_only_the_owner_and_admins_delete(start: Any) -> None:
    async with start(access=AccessSettings(admins=("U0ADMIN",))) as flow:
        flow.door.access.settings = AccessSettings(admins=(flow.slack.user("jonas").id,))
        template = await made(flow)
        listed = await said(flow, "jonas", "templates")
        assert "template_delete" in listed
        assert "template_start" not in listed, "an admin sees a private one, and does not use it"
        await flow.slack.click("jonas", flow.slack.ephemerals("jonas")[-1], "template_delete")
        await until(lambda: "There is no template" in str(flow.slack.ephemerals("jonas")), what="the list without it")
        assert await flow.sessions.templates.list() == []
        again = await made(flow, "jonas", drafted("his", "", {}, is_public=True))
        assert template.id != again.id
        assert "template_delete" not in await said(flow, "maya", "templates")


async def test_a_template_cannot_make_claude_ask_less(flow: Flow) -> None:
    template = await made(flow, draft=drafted("wild", "", {"mode": "auto"}))
    prompt = Prompt(ThreadId("T1", "C1", None), "cmd:1", "1.0", "U1", "go")
    assert applied(prompt, template, "ask").mode is None
    assert applied(prompt, template, "auto").mode == "auto"
