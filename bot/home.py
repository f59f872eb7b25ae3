"""The app's home tab: a person's sessions, what they cost, preferences, what Flow may do, and the state of the set-up.

Shown when it is opened and after a press in it; never more often than once a second for one person.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from slack_bolt.async_app import AsyncApp

from bot.errors import sentence_for
from bot.homeview import PREFERENCE, PREFERENCES, USUAL, Costs, Home, Part, home_blocks, refused_view
from bot.parts import section
from bot.refusals import refusal
from config.logging import get_logger
from sessions.costs import day_of, month_of

if TYPE_CHECKING:
    from bot.door import Ack, Door

log = get_logger(__name__)

_PACE = 1.0  # seconds between two looks of one person's home
_LISTED = 100  # sessions that are looked at
_SETUP_SECONDS = 8.0

#: The parts of the set-up and how each is.
Setup = Callable[[], Awaitable[Sequence[Part]]]


def register(app: AsyncApp, door: Door) -> None:
    async def opened(event: dict[str, Any]) -> None:
        if event.get("tab") == "home":
            door.homes.show(str(event["user"]))

    async def preferred(ack: Ack, body: dict[str, Any], action: dict[str, Any]) -> None:
        await ack()
        name = str(action["action_id"]).removeprefix(PREFERENCE)
        value = str((action.get("selected_option") or {}).get("value", USUAL))
        door.after.start(_prefer(door, str(body["user"]["id"]), name, value), "preference")

    app.event("app_home_opened")(opened)
    app.action(re.compile(f"{PREFERENCE}.+"))(preferred)


async def publish_home(door: Door, user_id: str) -> None:
    """Soon, as it is then."""
    door.homes.show(user_id)


async def _prefer(door: Door, user_id: str, name: str, value: str) -> None:
    _, choices = PREFERENCES.get(name, ("", {}))
    try:
        if value == USUAL or value in choices:
            kept: object = None if value == USUAL else value == "yes" if name == "mention" else value
            await door.sessions.options.set("user", user_id, name, kept, user_id)
    except Exception as error:  # noqa: BLE001 - the home shows what counts
        log.warning("a preference was not kept", name=name, error=sentence_for(error, "a preference"))
    door.homes.show(user_id)


class Homes:
    """Everybody's home tabs. `setup`: set by whoever can tell how the parts of Flow are."""

    def __init__(self, door: Door, *, pace: float = _PACE) -> None:
        self.setup: Setup | None = None
        self._door = door
        self._pace = pace
        self._wanted: dict[str, str | None] = {}  # by person: a sentence that refuses, or None for the home itself
        self._working: set[str] = set()

    @property
    def busy(self) -> bool:
        """Somebody's is being shown, or was so lately that the next one has to wait."""
        return bool(self._working)

    def show(self, user_id: str, refusal_sentence: str | None = None) -> None:
        """Returns at once. What is asked for while one is being shown comes after it, once."""
        self._wanted[user_id] = refusal_sentence
        if user_id not in self._working and self._door.after.open:
            self._working.add(user_id)
            self._door.after.start(self._work(user_id), "home")

    async def _work(self, user_id: str) -> None:
        try:
            while user_id in self._wanted:
                await self._publish(user_id, self._wanted.pop(user_id))
                await asyncio.sleep(self._pace)  # from when Slack had it: this one may have taken longer to make
        finally:
            self._working.discard(user_id)

    async def _publish(self, user_id: str, sentence: str | None) -> None:
        view = refused_view(sentence) if sentence else {"type": "home", "blocks": await self._blocks(user_id)}
        try:
            await self._door.client.views_publish(user_id=user_id, view=view)
        except Exception as error:  # noqa: BLE001 - it is shown again when it is opened again
            log.warning("a home tab is not shown", by=user_id, error=refusal(error).error)

    async def _blocks(self, user_id: str) -> list[dict[str, Any]]:
        try:
            return home_blocks(await self._home(user_id))
        except Exception as error:  # noqa: BLE001 - worded for the person who looks
            return [section(sentence_for(error, "a home tab"))]

    async def _home(self, user_id: str) -> Home:
        door, sessions = self._door, self._door.sessions
        mine = await sessions.list(user_id=user_id, limit=_LISTED)
        asks = await sessions.asks(user_id=user_id)
        is_admin = door.access.is_admin(user_id)
        return Home(
            me=door.me,
            sessions=mine,
            waiting={ask.session_id for ask in asks},
            costs=await self._costs(user_id, is_admin=is_admin),
            preferences=self._preferences(user_id),
            runtime=door.runtime,
            mode=sessions.policy.mode,
            limits=sessions.budgets.limits,
            setup=await self._setup() if is_admin else (),
            templates=await sessions.templates.list(user_id),
        )

    async def _costs(self, user_id: str, *, is_admin: bool) -> Costs:
        costs, now = self._door.sessions.budgets.costs, datetime.fromtimestamp(self._door.now(), UTC)
        day, (first, last) = day_of(now), month_of(now)
        today, month = await costs.of_person(user_id, day, day), await costs.of_person(user_id, first, last)
        if not is_admin:
            return Costs(today, month)
        return Costs(today, month, await costs.of_days(day, day), await costs.of_days(first, last))

    def _preferences(self, user_id: str) -> dict[str, str]:
        found = {name: self._door.sessions.options.own(user_id, name) for name in PREFERENCES}
        words = {True: "yes", False: "no"}
        return {
            name: words[value] if isinstance(value, bool) else str(value)
            for name, value in found.items()
            if value is not None
        }

    async def _setup(self) -> Sequence[Part]:
        if self.setup is None:
            return ()
        try:
            async with asyncio.timeout(_SETUP_SECONDS):
                return await self.setup()
        except TimeoutError:
            return (Part("set-up", False, "Its parts did not answer in time; `flow doctor` tells more."),)
