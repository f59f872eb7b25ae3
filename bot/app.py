"""The Bolt app with all its listeners."""

from __future__ import annotations

import logging
import re
from typing import Any

from slack_bolt.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.error import BoltUnhandledRequestError
from slack_bolt.response import BoltResponse

from bot import (
    actions,
    agentview,
    asks,
    catchup,
    commands,
    controls,
    cuts,
    diffs,
    egress,
    home,
    messages,
    previews,
    rules,
    shortcut,
    snippets,
    stopping,
    templates,
    waiting,
)
from bot.door import Ack, Door
from bot.socket import web_client
from config.errors import FlowError
from config.logging import get_logger

log = get_logger(__name__)
_ANY = re.compile(".*")


def build_app(door: Door) -> AsyncApp:
    """Every listener of Flow; nothing that Slack may send is left without one."""

    async def authorize() -> AuthorizeResult:
        # Known since the preflight. Bolt's own way asks auth.test while the first event waits for its ack.
        me = door.me
        return AuthorizeResult(
            enterprise_id=None,
            team_id=me.team_id,
            bot_user_id=me.user_id,
            bot_id=me.bot_id,
            bot_token=door.client.token,
        )

    app = AsyncApp(
        name="flow",
        logger=_quiet_logger(),
        client=web_client(None, door.client.base_url),
        authorize=authorize,
        process_before_response=True,  # the ack leaves when the listener has returned: after the insert
        raise_error_for_unhandled_request=True,
        request_verification_enabled=False,  # Socket Mode carries no signatures
        ssl_check_enabled=False,
        url_verification_enabled=False,
    )
    door.guard.register(app)
    pressed = (stopping, agentview, waiting, asks, cuts, controls, diffs, snippets, shortcut, templates, previews)
    for feature in (messages, commands, *pressed, egress, rules, home, actions, catchup):
        feature.register(app, door)
    _register_rest(app)
    return app


def _quiet_logger() -> logging.Logger:
    """Bolt warns that a token in SLACK_BOT_TOKEN goes unused when it is given a client."""
    logger = logging.getLogger("slack_bolt.flow")
    logger.addFilter(lambda record: "`token`" not in str(record.msg))
    return logger


def _register_rest(app: AsyncApp) -> None:
    """Slack redelivers events that nobody acknowledges, and shows people an error for the rest."""

    async def seen(ack: Ack, body: dict[str, Any]) -> None:
        await ack()
        kind = (body.get("event") or body).get("type")
        log.debug("nothing to do for this", type=kind)

    for listen in (app.event, app.action, app.shortcut, app.view, app.options):
        listen(_ANY)(seen)

    async def failed(error: Exception, body: dict[str, Any]) -> BoltResponse:
        if isinstance(error, BoltUnhandledRequestError):
            log.debug("nobody listens to this", type=body.get("type"))
            return BoltResponse(status=200)
        if not isinstance(error, FlowError):
            log.error("a listener failed", exc_info=error, type=body.get("type"))
        return BoltResponse(status=500)  # anything but 200 stays unacknowledged

    app.error(failed)
