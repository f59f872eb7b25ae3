"""What the gateway's process gets of the bot's environment."""

from __future__ import annotations

from worklets.gatewaylaunch import allowed


def test_logins_of_this_machines_own_are_not_among_it() -> None:
    given = {"HOME": "/home/ada", "NETRC": "/home/ada/.netrc", "HTTPS_PROXY": "http://p:1", "SLACK_BOT_TOKEN": "xoxb-1"}
    assert allowed(given) == {"HOME": "/home/ada", "HTTPS_PROXY": "http://p:1", "NETRC": "/dev/null"}
