"""Which handlers serve `/flow/<subject>/…` behind worklets' doors: see `worklets.gatewayroutes`."""

from __future__ import annotations

from collections.abc import Mapping

from worklets import gitdoor, mcpdoor, secretsdoor
from worklets.gatewayroutes import Handler


def routes() -> Mapping[str, Handler]:
    """By subject. Made once in each process that serves a gateway."""
    return {
        gitdoor.SUBJECT: gitdoor.GitDoor().answer,
        mcpdoor.SUBJECT: mcpdoor.McpDoor().answer,
        secretsdoor.SUBJECT: secretsdoor.VaultDoor().answer,
    }
