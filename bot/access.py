"""Who may use Flow: by settings, and by what Slack tells of a person. Decides; `guard.py` asks it at every door.

What is remembered is decided at once, so that an acknowledgement waits for nothing. What is not, or not lately, is
asked of Slack: `users.info` for guests and people of other workspaces, `usergroups.users.list` for members of groups.
While Slack does not answer, the last answer counts; where there never was one, there is no verdict yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from bot.inbound import Identity
from bot.refusals import Meaning, refusal
from config.logging import get_logger
from config.settings import AccessSettings

log = get_logger(__name__)

_FRESH = 600.0  # seconds that an answer counts before it is asked for again
_LATELY = 3_600.0  # seconds that it counts for what a person sees the answer of at once
_AGAIN = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)  # seconds between tries; the last one for good
_CALL_SECONDS = 10.0
_MOST = 20_000  # people who are remembered
#: Slack's error strings for people that this workspace does not know.
_STRANGERS = ("user_not_found", "user_not_visible", "users_not_found")


class Reason(StrEnum):
    """Why somebody may not."""

    PERSON = "person"  # neither in FLOW_USERS nor in a group of FLOW_GROUPS
    CHANNEL = "channel"
    GUEST = "guest"
    EXTERNAL = "external"
    UNCHECKED = "unchecked"  # the app lacks the rights to look


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` None: welcome."""

    reason: Reason | None = None

    @property
    def allowed(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Facts:
    """What `users.info` tells of a person (docs.slack.dev, user object)."""

    guest: bool = False  # single-channel and multi-channel guests
    external: bool = False  # of another workspace, met in a shared channel


class _Unknown(Exception):
    """Slack has to be asked for this first."""


@dataclass(frozen=True, slots=True)
class _Known:
    value: Any
    at: float


class Access:
    """`clock` counts seconds. One for each door."""

    def __init__(
        self,
        settings: AccessSettings,
        client: AsyncWebClient,
        me: Identity,
        *,
        clock: Callable[[], float] = time.monotonic,
        again: tuple[float, ...] = _AGAIN,
        learned: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        """`learned` is told of each user object that Slack answers."""
        self.settings = settings
        self._client = client
        self._me = me
        self._clock = clock
        self._again = again
        self._learned = learned
        self._known: dict[str, _Known] = {}  # by user id: Facts; by group id: frozenset of user ids
        self._asking: dict[str, asyncio.Lock] = {}

    def is_admin(self, user_id: str) -> bool:
        return user_id in self.settings.admins

    def known(self, user_id: str, channel: str | None, *, lately: bool = False) -> Verdict | None:
        """The verdict, without waiting. `channel` None: in the app's own home. None: Slack has to be asked.

        `lately`: what Slack said in the last hour will do.
        """
        try:
            return self._judge(user_id, channel, self._late if lately else self._fresh)
        except _Unknown:
            return None

    async def decide(self, user_id: str, channel: str | None) -> Verdict:
        """The verdict, as soon as there is one: asks until Slack answers."""
        while True:
            try:
                return self._judge(user_id, channel, self._fresh)
            except _Unknown as unknown:
                wanted = str(unknown)
            try:
                await self._ask(wanted)
            except _NoRight as error:
                log.error("cannot find out who may use Flow; give the app the scope that is missing", error=str(error))
                return Verdict(Reason.UNCHECKED)

    def remember(self, user_id: str, facts: Facts) -> None:
        """As if Slack had just told so."""
        self._note(user_id, facts)

    def sentence(self, verdict: Verdict) -> str:
        """mrkdwn, for the person who may not."""
        why = {
            Reason.PERSON: "You are not among those who may use me.",
            Reason.CHANNEL: "I may not be used in this channel.",
            Reason.GUEST: "Guests of this workspace may not use me.",
            Reason.EXTERNAL: "People of other workspaces may not use me.",
            Reason.UNCHECKED: "I cannot find out whether you may use me: I lack a permission in Slack.",
        }[verdict.reason or Reason.PERSON]
        return f"{why} {self.whom_to_ask()}"

    def whom_to_ask(self) -> str:
        people = " or ".join(f"<@{admin}>" for admin in self.settings.admins[:5])
        return f"Ask {people or 'whoever runs me here'} about it."

    # ---- the rules ---------------------------------------------------------------------------------------------------

    def _judge(self, user_id: str, channel: str | None, look: Callable[[str], Any]) -> Verdict:
        """`look` gives what Slack said of a person or a group, or raises _Unknown."""
        settings = self.settings
        direct = channel is None or channel.startswith("D")
        if settings.channels and not direct and channel not in settings.channels:
            return Verdict(Reason.CHANNEL)
        if user_id in settings.admins or user_id in settings.users:
            return Verdict()  # named by their id: whoever did so knows who they are
        if (settings.users or settings.groups) and not any(user_id in look(group) for group in settings.groups):
            return Verdict(Reason.PERSON)
        if settings.guests and settings.external:
            return Verdict()
        facts: Facts = look(user_id)
        if facts.external and not settings.external:
            return Verdict(Reason.EXTERNAL)
        if facts.guest and not settings.guests:
            return Verdict(Reason.GUEST)
        return Verdict()

    def _fresh(self, key: str) -> Any:
        return self._of_age(key, _FRESH)

    def _late(self, key: str) -> Any:
        return self._of_age(key, _LATELY)

    def _of_age(self, key: str, most: float) -> Any:
        known = self._known.get(key)
        if known is None or self._clock() - known.at >= most:
            raise _Unknown(key)
        return known.value

    # ---- asking ------------------------------------------------------------------------------------------------------

    async def _ask(self, key: str) -> None:
        """Afterwards `key` is known. Raises _NoRight."""
        async with self._asking.setdefault(key, asyncio.Lock()):
            tries = 0
            while True:
                try:
                    self._fresh(key)
                except _Unknown:
                    pass
                else:
                    break
                pause = await self._try(key, tries)
                tries += 1
                if pause:
                    await asyncio.sleep(pause)
        self._asking.pop(key, None)

    async def _try(self, key: str, tries: int) -> float:
        """Asks once. Returns the seconds until it makes sense to ask again; 0: it is known now."""
        ask = self._group if key.startswith("S") else self._person
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                self._note(key, await ask(key))
        except Exception as error:
            said = refusal(error)
            last = self._known.get(key)
            if last is not None:  # what was true lately counts on
                log.info("Slack does not say who this is; its last answer counts", who=key, error=said.error)
                self._known[key] = _Known(last.value, self._clock() - _FRESH + self._again[-1])
                return 0.0
            if said.meaning is Meaning.TOKEN:
                raise _NoRight(said.error) from error
            if said.error in _STRANGERS:
                self._note(key, Facts(external=True))
                return 0.0
            log.warning("Slack does not say who may use Flow; asking again", who=key, error=said.error)
            return said.seconds or self._again[min(tries, len(self._again) - 1)]
        return 0.0

    def _note(self, key: str, value: object) -> None:
        if len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = _Known(value, self._clock())

    async def _person(self, user_id: str) -> Facts:
        answer = await self._client.users_info(user=user_id)
        user: Mapping[str, Any] = answer.get("user") or {}
        self._learned(user)
        guest = bool(user.get("is_restricted") or user.get("is_ultra_restricted"))
        return Facts(guest, bool(user.get("is_stranger")) or not self._is_ours(user))

    def _is_ours(self, user: Mapping[str, Any]) -> bool:
        """Of this workspace, or of another one of the same organisation that shares people with it."""
        teams = (user.get("enterprise_user") or {}).get("teams") or ()
        return user.get("team_id") in (None, self._me.team_id) or self._me.team_id in teams

    async def _group(self, group_id: str) -> frozenset[str]:
        """Needs the scope usergroups:read. A group that is gone or switched off has nobody in it."""
        try:
            answer = await self._client.usergroups_users_list(usergroup=group_id)
        except Exception as error:
            if refusal(error).error in ("no_such_subteam", "subteam_not_found"):
                log.warning("a group of FLOW_GROUPS does not exist", group=group_id)
                return frozenset()
            raise
        return frozenset(map(str, answer.get("users") or ()))


class _NoRight(Exception):
    """The token lacks a scope: asking again is of no use."""
