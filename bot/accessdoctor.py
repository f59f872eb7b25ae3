"""What `flow doctor` says of Slack, of who may use Flow there, and of what it may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.doctorfinding import Finding

if TYPE_CHECKING:
    from config.settings import Settings


async def slack(settings: Settings) -> Finding:
    if not settings.slack.enabled:
        return Finding("skip", "switched off (SLACK_BOT_ENABLED)")
    from bot.socket import preflight

    found = await preflight(
        app_token=settings.slack.app_token.get_secret_value(),
        bot_token=settings.slack.bot_token.get_secret_value(),
        api_url=settings.slack.api_url,
    )
    return Finding("ok", f"{found.team}, as {found.bot_name}; tokens and scopes are good")


async def access(settings: Settings) -> Finding:
    """Who may use Flow, and whether Slack tells who is in the groups."""
    own = settings.access
    if own.groups and settings.slack.enabled:
        from slack_sdk.errors import SlackApiError

        from bot.socket import web_client

        client = web_client(settings.slack.bot_token.get_secret_value(), settings.slack.api_url)
        for group in own.groups:
            try:
                await client.usergroups_users_list(usergroup=group)
            except SlackApiError as error:
                why = str(error.response.get("error"))
                advice = "Give the app the scope usergroups:read and install it again, or correct FLOW_GROUPS."
                return Finding("fail", f"the members of {group} cannot be read ({why})", advice)
            except OSError as error:
                return Finding("fail", f"Slack does not answer ({type(error).__name__})", "Check the network.")
    who = [f"{what} ({len(names)})" for what, names in (("named people", own.users), ("groups", own.groups)) if names]
    where = f"named channels ({len(own.channels)})" if own.channels else "all channels"
    told = f"{' and '.join(who) or 'everybody'}, in {where}"
    others = [what for what, may in (("guests", own.guests), ("other workspaces", own.external)) if may]
    told += f", {' and '.join(others)} too" if others else ", no guests or other workspaces"
    if not own.admins:
        return Finding(
            "warn", f"{told}; no admin", "Set FLOW_ADMINS: a refusal names them, and they can stop anything."
        )
    return Finding("ok", f"{told}; admins: {len(own.admins)}")


async def limits(settings: Settings) -> Finding:
    own = settings.limits
    amounts = (own.turn, own.session, own.person_day, own.channel_day, own.day, own.month)
    count = sum(amount is not None for amount in amounts)
    if not count:
        return Finding("skip", "none: it may cost what it costs (FLOW_LIMIT_…)")
    if not settings.asks.approvers:
        advice = "Set FLOW_APPROVERS; without it everybody who asks in a thread may allow more."
        return Finding("warn", f"{count} set, nobody in particular may allow more", advice)
    return Finding("ok", f"{count} set; who may allow more: {len(settings.asks.approvers)}")
