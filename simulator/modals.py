"""Modals: opened with a trigger, stacked, filled in, submitted."""

import copy
import uuid
from dataclasses import dataclass, field
from typing import Any

from simulator.elements import check_suggestions
from simulator.envelopes import Envelopes
from simulator.interactions import Interactions, Result
from simulator.messages import Messages
from simulator.state import App, User, Workspace

Json = dict[str, Any]


@dataclass(slots=True)
class View:
    """A modal that a person has open. `values` is its state."""

    id: str
    app: App
    user: User
    body: Json
    root_id: str
    previous_id: str | None = None
    open: bool = True
    values: Json = field(default_factory=dict)
    offered: dict[str, list[Json]] = field(default_factory=dict)  # by action id: options that the app was asked for


class Modals:
    """The modals that people have open."""

    def __init__(
        self, workspace: Workspace, envelopes: Envelopes, messages: Messages, interactions: Interactions
    ) -> None:
        self._workspace = workspace
        self._envelopes = envelopes
        self._messages = messages
        self._interactions = interactions
        self.views: dict[str, View] = {}

    def open(self, app: App, user: User, body: Json, previous: View | None = None) -> View:
        view_id = self._workspace.new_id("V")
        view = View(
            view_id, app, user, body, previous.root_id if previous else view_id, previous.id if previous else None
        )
        self._stamp(view)
        self.views[view_id] = view
        self._workspace.changed("view", user=user.id, view=view_id)
        return view

    def replace(self, view: View, body: Json) -> None:
        view.body = body
        self._stamp(view)
        self._workspace.changed("view", user=view.user.id, view=view.id)

    def _stamp(self, view: View) -> None:
        view.body = {**view.body, "blocks": self._messages.with_block_ids(view.body.get("blocks", []))}
        view.body["hash"] = f"{int(self._workspace.clock.now())}.{uuid.uuid4().hex[:8]}"

    def close(self, view: View, *, whole_stack: bool) -> None:
        for candidate in list(self.views.values()):
            if candidate is view or (whole_stack and candidate.root_id == view.root_id):
                candidate.open = False
        self._workspace.changed("view", user=view.user.id, view=view.id)

    def view_object(self, view: View) -> Json:
        """A view as payloads and `views.*` answers carry it."""
        body = copy.deepcopy(view.body)
        return {
            "private_metadata": "",
            "callback_id": "",
            "external_id": "",
            "clear_on_close": False,
            "notify_on_close": False,
            "submit": None,
            "close": None,
            **body,
            "id": view.id,
            "team_id": self._workspace.team_id,
            "app_id": view.app.id,
            "app_installed_team_id": self._workspace.team_id,
            "bot_id": view.app.bot.bot_id,
            "root_view_id": view.root_id,
            "previous_view_id": view.previous_id,
            "state": {"values": copy.deepcopy(view.values)},
        }

    async def submit(self, view: View, values: Json) -> Result:
        """`view_submission` with `values` as `state.values` has them; obeys `response_action`."""
        view.values = values
        payload = {
            **self._interactions.common("view_submission", view.app, view.user),
            "view": self.view_object(view),
            "response_urls": [],
        }
        answer = await self._envelopes.ask(view.app, "interactive", payload, accepts_response=True)
        if not answer.ok:
            return self._interactions.result(answer)
        response = answer.payload if isinstance(answer.payload, dict) else {}
        match response.get("response_action"):
            case "errors":
                return Result(False, answer.payload, "errors")
            case "update":
                self.replace(view, response["view"])
            case "push":
                self.open(view.app, view.user, response["view"], view)
            case "clear":
                self.close(view, whole_stack=True)
            case _:
                self.close(view, whole_stack=False)
        return self._interactions.result(answer)

    async def suggest(self, view: View, element: Json, typed: str) -> Result:
        """`block_suggestion`: what somebody types into an external select is the app's to answer, within 3 seconds.

        Slack's client asks from `min_query_length` letters on (3 unless told), and shows only what it may: 100 options,
        or groups of so many. What was shown can be chosen.
        """
        if len(typed) < int(element.get("min_query_length", 3)):
            return Result(True)
        payload = self._interactions.common("block_suggestion", view.app, view.user)
        del payload["trigger_id"]  # nothing is opened by typing
        payload |= {
            "container": {"type": "view", "view_id": view.id},
            "action_id": element["action_id"],
            "block_id": element["block_id"],
            "value": typed,
            "view": self.view_object(view),
        }
        answer = await self._envelopes.ask(view.app, "interactive", payload, accepts_response=True)
        if not answer.ok:
            return self._interactions.result(answer)
        response = answer.payload if isinstance(answer.payload, dict) else {}
        if any(check_suggestions(response)):
            return Result(False, answer.payload, "invalid_options")
        groups = response.get("option_groups") or []
        options = [*(response.get("options") or []), *(one for group in groups for one in group["options"])]
        view.offered.setdefault(element["action_id"], []).extend(options)
        return self._interactions.result(answer)

    async def cancel(self, view: View) -> Result:
        """The person closes the modal; the app hears of it only with `notify_on_close`."""
        self.close(view, whole_stack=False)
        if not view.body.get("notify_on_close"):
            return Result(True)
        payload = {
            **self._interactions.common("view_closed", view.app, view.user),
            "view": self.view_object(view),
            "is_cleared": False,
        }
        return self._interactions.result(
            await self._envelopes.ask(view.app, "interactive", payload, accepts_response=False)
        )

    async def click(self, view: View, action: Json) -> Result:
        """`block_actions` of a modal."""
        payload = {
            **self._interactions.common("block_actions", view.app, view.user),
            "container": {"type": "view", "view_id": view.id},
            "view": self.view_object(view),
            "actions": [{**action, "action_ts": self._workspace.new_ts()}],
        }
        return self._interactions.result(
            await self._envelopes.ask(view.app, "interactive", payload, accepts_response=True)
        )
