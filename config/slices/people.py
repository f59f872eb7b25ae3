"""Who may use Flow, who answers what Claude asks, and what it may cost."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import field_validator, model_validator

from config.slices.base import DAY, Dollars, Names, Retention, Rules, Slice, setting


def _user_ids(value: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [each for each in value if not re.fullmatch(r"[UW][A-Z0-9]+", each)]:
        raise ValueError(f'"{wrong[0]}" is not a user id; copy it from the person\'s profile, like U012AB3CD')
    return value


class AccessSettings(Slice):
    """Who may use Flow. Ids of Slack; `users`, `groups` and `channels` empty: everybody, everywhere."""

    users: Names = setting(
        "FLOW_USERS", (), "User ids of those who may use Flow; with FLOW_GROUPS unset too: everybody."
    )
    groups: Names = setting("FLOW_GROUPS", (), "Ids of user groups whose members may use Flow, e.g. S012AB3CD.")
    channels: Names = setting(
        "FLOW_CHANNELS", (), "Ids of the channels where Flow may be used; unset: all. And in DMs."
    )
    admins: Names = setting("FLOW_ADMINS", (), "User ids of those who see and may stop every session, and whom to ask.")
    guests: bool = setting("FLOW_GUESTS", False, "Let guests of the workspace use Flow.")
    external: bool = setting("FLOW_EXTERNAL", False, "Let people of other workspaces use Flow, in shared channels.")

    _are_user_ids = field_validator("users", "admins")(_user_ids)

    @field_validator("groups")
    @classmethod
    def _are_group_ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [each for each in value if not re.fullmatch(r"S[A-Z0-9]+", each)]:
            raise ValueError(f"\"{wrong[0]}\" is not a user group's id; copy it from the group's menu, like S012AB3CD")
        return value

    @field_validator("channels")
    @classmethod
    def _are_channel_ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [each for each in value if not re.fullmatch(r"[CG][A-Z0-9]+", each)]:
            raise ValueError(
                f"\"{wrong[0]}\" is not a channel's id; copy it from the channel's details, like C012AB3CD"
            )
        return value


class AskSettings(Slice):
    answerers: Literal["asker", "participants", "approvers"] = setting(
        "FLOW_ANSWERERS",
        "participants",
        "Who may answer what Claude asks in a thread: asker, participants or approvers.",
    )
    approvers: Names = setting(
        "FLOW_APPROVERS",
        (),
        "User ids of those who may always answer, and alone decide on money, e.g. U012AB3CD,U045EF6GH.",
    )
    mode: Literal["auto", "ask", "plan"] = setting(
        "FLOW_PERMISSION_MODE",
        "auto",
        "auto allows all inside the container but what FLOW_ASK and FLOW_DENY name; ask, or plan first.",
    )
    allow: Rules = setting("FLOW_ALLOW", (), "What needs no asking in the mode ask, e.g. Bash(git *), WebFetch.")
    ask: Rules = setting("FLOW_ASK", (), "What people are asked about in every mode, e.g. Bash(git push *).")
    deny: Rules = setting("FLOW_DENY", (), "What is refused in every mode, e.g. Bash(rm *).")
    risk: Literal["never", "critical", "high", "medium"] = setting(
        "FLOW_ASK_RISK", "never", "Risk from which on tools are asked for in the mode auto: medium, high or critical."
    )
    expires: Retention = setting("FLOW_ASK_EXPIRES", DAY, "Time that Claude waits for an answer, e.g. 24h; or never.")

    _are_user_ids = field_validator("approvers")(_user_ids)

    @model_validator(mode="after")
    def _somebody_can_answer(self) -> Self:
        if self.answerers == "approvers" and not self.approvers:
            raise ValueError("FLOW_ANSWERERS=approvers lets nobody answer while FLOW_APPROVERS names nobody")
        return self


class LimitSettings(Slice):
    """What may be spent, in US dollars; None: as much as it takes."""

    turn: Dollars = setting("FLOW_LIMIT_TURN", None, "US dollars that one turn may cost, e.g. 2.50; unset: no limit.")
    session: Dollars = setting("FLOW_LIMIT_SESSION", None, "US dollars for a thread.")
    person_day: Dollars = setting("FLOW_LIMIT_PERSON_DAY", None, "US dollars for one person's turns of a day (UTC).")
    channel_day: Dollars = setting("FLOW_LIMIT_CHANNEL_DAY", None, "US dollars for one channel's turns of a day (UTC).")
    day: Dollars = setting("FLOW_LIMIT_DAY", None, "US dollars for all turns of a day (UTC).")
    month: Dollars = setting("FLOW_LIMIT_MONTH", None, "US dollars for all turns of a calendar month (UTC).")
    warning: float = setting(
        "FLOW_LIMIT_WARNING", 80.0, "Percent of a limit at which the thread is told.", gt=0, le=100
    )
    hard: float = setting("FLOW_LIMIT_HARD", 1.5, "Times a limit at which even a running turn is ended.", ge=1)
