"""The connection to Slack, and how threads look."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr, field_validator

from config.slices.base import Slice, setting

SLACK_API = "https://slack.com/api/"


class SlackSettings(Slice):
    enabled: bool = setting("SLACK_BOT_ENABLED", True, "Connect to Slack at all.")
    app_token: SecretStr = setting("SLACK_APP_TOKEN", SecretStr(""), "App-level token, xapp-…")
    bot_token: SecretStr = setting("SLACK_BOT_TOKEN", SecretStr(""), "Bot token, xoxb-…")
    api_url: str = setting("SLACK_API_URL", SLACK_API, "Web API to talk to; ends in /api/.")
    streaming: Literal["auto", "edits", "native"] = setting(
        "FLOW_STREAMING",
        "auto",
        "How an answer grows: auto (Slack's streams in direct messages, edits elsewhere), edits, native.",
    )

    @field_validator("api_url")
    @classmethod
    def _ends_in_api(cls, value: str) -> str:
        if not value.rstrip("/").endswith("/api"):
            raise ValueError("it must end in /api/")
        return value.rstrip("/") + "/"


class ShowSettings(Slice):
    # `level` holds unless a channel, a thread or a person has another one.
    level: Literal["quiet", "normal", "verbose"] = setting(
        "FLOW_LEVEL", "normal", "How much of Claude's work threads show: quiet, normal or verbose."
    )
    reactions: bool = setting("FLOW_REACTIONS", True, "Say by reactions on the asking message how far its turn is.")
    mention_at_end: bool = setting(
        "FLOW_MENTION_AT_END", False, "Mention who asked when a turn has ended: edits notify nobody."
    )
    plan_blocks: bool = setting(
        "FLOW_PLAN_BLOCKS", False, "Show checklists as Slack's plan blocks, where it takes them."
    )
