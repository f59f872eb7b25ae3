"""Names of people, for Claude to read: who said what."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from slack_sdk.web.async_client import AsyncWebClient

from bot.inbound import Identity, readable
from bot.refusals import refusal
from config.logging import get_logger
from worklets.git import noreply

log = get_logger(__name__)

_KEPT = 3_600.0  # seconds that a name is believed
_AGAIN = 300.0  # seconds until somebody whose name could not be had is asked for again
_MOST = 10_000
_MENTIONED = re.compile(r"<@([UW][A-Z0-9]+)(?:\|[^<>]*)?>")


class People:
    """`users.info`, remembered. Whoever cannot be asked for goes by the id."""

    def __init__(
        self,
        client: AsyncWebClient,
        me: Identity,
        *,
        patience: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`patience`: seconds for one question; an event is waiting for its acknowledgement meanwhile."""
        self._client = client
        self._patience = patience
        self._clock = clock
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._emails: dict[str, str] = {}  # of those whose Slack lets us read it
        self._names: dict[str, tuple[str, float]] = {me.user_id: (me.bot_name, float("inf"))}

    async def name(self, user_id: str) -> str:
        """As the person wants to be called, else the full name, else the id."""
        async with self._asking.setdefault(user_id, asyncio.Lock()):  # two who ask at once ask once
            known, until = self._names.get(user_id, ("", 0.0))
            if self._clock() >= until:
                known, kept = await self._ask(user_id)
                self._note(user_id, known, kept)
        return known

    async def author(self, user_id: str) -> tuple[str, str]:
        """Name and e-mail address for git; without the scope users:read.email an address that is nobody's."""
        name = await self.name(user_id)
        return name, self._emails.get(user_id) or noreply(user_id)

    async def meet(self, user_ids: Iterable[str], *markup: str) -> None:
        """Asks for all of these, and all who are mentioned, at once: within `patience` seconds each has a name."""
        mentioned = [user_id for text in markup for user_id in _MENTIONED.findall(text)]
        await asyncio.gather(*(self.name(user_id) for user_id in dict.fromkeys([*user_ids, *mentioned])))

    def learn(self, user: Mapping[str, Any]) -> None:
        """Somebody else was told by Slack who this is: it need not be asked again."""
        if user_id := user.get("id"):
            self._note_email(str(user_id), user)
            self._note(str(user_id), _name(user, str(user_id)), _KEPT)

    def _note_email(self, user_id: str, user: Mapping[str, Any]) -> None:
        if email := (user.get("profile") or {}).get("email"):
            if len(self._emails) >= _MOST:
                self._emails.clear()
            self._emails[user_id] = str(email)

    def _note(self, user_id: str, name: str, kept: float) -> None:
        if len(self._names) >= _MOST:
            self._names = dict(list(self._names.items())[:1])  # its own stays
        self._names[user_id] = name, self._clock() + kept

    async def _ask(self, user_id: str) -> tuple[str, float]:
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._client.users_info(user=user_id)
        except Exception as error:  # noqa: BLE001 - a name is never worth losing what was said
            log.info("no name for a person", user=user_id, error=refusal(error).error)
            return user_id, _AGAIN
        user: Mapping[str, Any] = answer.get("user") or {}
        self._note_email(user_id, user)
        return _name(user, user_id), _KEPT

    async def readable(self, markup: str) -> str:
        """Slack's markup as its writer saw it, mentioned people by their names."""
        names = {user_id: await self.name(user_id) for user_id in dict.fromkeys(_MENTIONED.findall(markup))}
        return readable(_MENTIONED.sub(lambda found: _labelled(found[1], names[found[1]]), markup)).strip()


def _name(user: Mapping[str, Any], user_id: str) -> str:
    profile = user.get("profile") or {}
    names = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"), user.get("name"))
    return next((str(name) for name in names if name), user_id)


def _labelled(user_id: str, name: str) -> str:
    return f"<@{user_id}|{re.sub('[<>|]', '', name)}>"
