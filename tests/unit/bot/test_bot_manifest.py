"""manifest.yml against what Slack accepts, and against what the code uses.

The rules are those of Slack's published schema for app manifests, major version 1 (repository
slackapi/manifest-schema), put down here for the parts that an app like Flow may have. Unknown keys are refused.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bot.newmodal import MESSAGE, NEW
from bot.socket import SCOPES

ROOT = Path(__file__).parents[3]
FLAG = {"type": "boolean"}


def text(least: int, most: int, **more: Any) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": most, **more}


def record(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


def several(items: dict[str, Any], least: int, most: int, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most, **more}


URL = text(0, 3500, pattern=r"^https?://")
NAMES = several(text(0, 50), 0, 100, uniqueItems=True)
SCOPE_LIST = several(text(0, 50), 0, 255)
SCHEMA = record(
    ("display_information",),
    _metadata=record(
        **{f"{name}_version": {"type": "integer"} for name in ("schema", "min", "major", "minor")},
    ),
    display_information=record(
        ("name",),
        name=text(1, 35),
        description=text(1, 140),
        background_color=text(4, 7, pattern="^#[0-9a-fA-F]{3}([0-9a-fA-F]{3})?$"),
        long_description=text(175, 4000),
    ),
    features=record(
        bot_user=record(("display_name",), display_name=text(1, 80), always_online=FLAG),
        app_home=record(home_tab_enabled=FLAG, messages_tab_enabled=FLAG, messages_tab_read_only_enabled=FLAG),
        slash_commands=several(
            record(
                ("command", "description"),
                command=text(2, 32, pattern="^/"),
                url=URL,
                description=text(1, 2000),
                usage_hint=text(1, 1000),
                should_escape=FLAG,
            ),
            1,
            50,
        ),
        shortcuts=several(
            record(
                ("name", "type", "callback_id", "description"),
                name=text(1, 24),
                type={"enum": ["message", "global"]},
                callback_id=text(1, 255),
                description=text(1, 150),
            ),
            1,
            10,
        ),
        agent_view=record(
            ("agent_description",),
            agent_description=text(1, 300),
            suggested_prompts=several(record(("title", "message"), title=text(1, 100), message=text(1, 2000)), 0, 4),
        ),
    ),
    oauth_config=record(
        redirect_urls=several(text(0, 2500), 0, 1000, uniqueItems=True),
        scopes=record(bot=SCOPE_LIST, user=SCOPE_LIST, bot_optional=SCOPE_LIST, user_optional=SCOPE_LIST),
        token_management_enabled=FLAG,
        pkce_enabled=FLAG,
    ),
    settings=record(
        event_subscriptions=record(request_url=URL, user_events=NAMES, bot_events=NAMES),
        interactivity=record(("is_enabled",), is_enabled=FLAG, request_url=URL, message_menu_options_url=URL),
        org_deploy_enabled=FLAG,
        socket_mode_enabled=FLAG,
        token_rotation_enabled=FLAG,
    ),
)

#: Scopes of the methods that Flow calls (docs.slack.dev, method pages); those not named here need none.
METHOD_SCOPES = {
    "chat_postMessage": {"chat:write"},
    "chat_postEphemeral": {"chat:write"},
    "chat_update": {"chat:write"},
    "chat_delete": {"chat:write"},
    "chat_startStream": {"chat:write"},
    "chat_appendStream": {"chat:write"},
    "chat_stopStream": {"chat:write"},
    "agents_sessions_setStatus": {"chat:write"},
    "conversations_history": {"channels:history", "groups:history", "im:history", "mpim:history"},
    "conversations_replies": {"channels:history", "groups:history", "im:history", "mpim:history"},
    "reactions_add": {"reactions:write"},
    "reactions_remove": {"reactions:write"},
    "files_info": {"files:read"},
    "files_getUploadURLExternal": {"files:write"},
    "files_completeUploadExternal": {"files:write"},
    "users_info": {"users:read"},
    "views_open": set(),
    "views_publish": set(),
    "views_update": set(),
    "auth_test": set(),
    "apps_connections_open": set(),
}
EVENT_SCOPES = {
    "app_mention": "app_mentions:read",
    "app_home_opened": None,
    "message.channels": "channels:history",
    "message.groups": "groups:history",
    "message.im": "im:history",
    "message.mpim": "mpim:history",
    "reaction_added": "reactions:read",
}
#: Of an app with an agent view.
AGENT_EVENTS = {"agent_session_stopped", "agent_session_title_changed"}


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture(params=["manifest.yml", "manifest-agent.yml"])
def manifest(request: pytest.FixtureRequest) -> Any:
    return read(request.param)


def methods_called() -> set[str]:
    """Names of Web API methods that code in bot/ mentions."""
    prefixes = (
        "chat_",
        "conversations_",
        "views_",
        "reactions_",
        "users_",
        "files_",
        "assistant_",
        "apps_",
        "auth_",
        "agents_",
    )
    return {
        node.attr
        for path in (ROOT / "bot").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith(prefixes)
    }


def test_it_is_valid(manifest: Any) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(manifest, SCHEMA)


def test_the_rules_have_teeth(manifest: Any) -> None:
    for spoil in (
        lambda m: m["features"].update(slash_command=[]),
        lambda m: m["features"]["slash_commands"][0].update(command="flow"),
        lambda m: m["display_information"].update(description="x" * 141),
        lambda m: m["settings"]["interactivity"].pop("is_enabled"),
    ):
        spoiled = yaml.safe_load(yaml.safe_dump(manifest))
        spoil(spoiled)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(spoiled, SCHEMA)


def test_scopes_are_exactly_what_is_used(manifest: Any) -> None:
    called = methods_called()
    assert called <= METHOD_SCOPES.keys(), "name the scope of a new method here and in the manifest"
    used = {scope for method in called for scope in METHOD_SCOPES[method]} | {"commands"}
    used |= {scope for event in events(manifest) if (scope := EVENT_SCOPES.get(event))}
    assert set(manifest["oauth_config"]["scopes"]["bot"]) == used == set(SCOPES)


def test_the_scope_for_groups_is_there_to_be_switched_on() -> None:
    """It is needed with FLOW_GROUPS alone (`usergroups.users.list`); who has none need not grant it."""
    for name in ("manifest.yml", "manifest-agent.yml"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("# - usergroups:read", "- usergroups:read")
        assert "usergroups:read" in yaml.safe_load(text)["oauth_config"]["scopes"]["bot"]


def test_events_and_socket_mode(manifest: Any) -> None:
    assert events(manifest) - AGENT_EVENTS == set(EVENT_SCOPES)
    assert manifest["settings"]["socket_mode_enabled"]
    assert manifest["settings"]["interactivity"]["is_enabled"]
    assert [command["command"] for command in manifest["features"]["slash_commands"]] == ["/flow"]


def test_the_shortcuts_are_those_that_are_listened_to(manifest: Any) -> None:
    shortcuts = {one["callback_id"]: one["type"] for one in manifest["features"]["shortcuts"]}
    assert shortcuts == {MESSAGE: "message", NEW: "global"}


def events(manifest: Any) -> set[str]:
    return set(manifest["settings"]["event_subscriptions"]["bot_events"])


def test_the_agent_s_manifest_differs_in_nothing_else() -> None:
    plain, agent = read("manifest.yml"), read("manifest-agent.yml")
    assert agent["features"].pop("agent_view")["agent_description"]
    assert events(agent) - events(plain) == AGENT_EVENTS
    agent["settings"]["event_subscriptions"] = plain["settings"]["event_subscriptions"]
    assert agent == plain


def test_the_prompts_that_an_agent_suggests_can_be_sent_as_they_are() -> None:
    agent = yaml.safe_load((ROOT / "manifest-agent.yml").read_text())["features"]["agent_view"]
    for prompt in agent["suggested_prompts"]:
        assert not re.search(r"\b(?:repo|branch)=", prompt["message"]), "a repository that is not there is refused"
