"""What a session's template adds to its worklet's profile: see bot/profiles.py.

It goes first, so that what comes later tightens it. Its startup script went into the session's row when that began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from config.errors import FlowError
from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.templates import Egress, Resources, TemplateConfig, is_reserved
from sessions.templatestore import TemplateStore
from sessions.types import SessionId
from worklets.containeryaml import McpServer
from worklets.egressgrants import tightened
from worklets.errors import WorkletStartFailed
from worklets.mcpidentity import identities
from worklets.mcpservers import BUILT_IN, Find, resolve
from worklets.profile import LEAST_CPUS, LEAST_MEMORY, Origin, Profile

if TYPE_CHECKING:
    from worklets.secrets import SecretStore

log = get_logger(__name__)
N = TypeVar("N", int, float)

_PAUSE = 1.0  # seconds between two tries on a database that does not serve


def template_part(
    store: TemplateStore, secrets: Callable[[], SecretStore | None], find: Find = lambda _: None
) -> Callable[[str, Origin, Profile], Awaitable[Profile]]:
    """A part for `bot.profiles.Composed`."""

    async def part(_name: str, origin: Origin, profile: Profile) -> Profile:
        config = await config_of(store, origin)
        if config is None:
            return profile
        profile = narrowed(profile, config)
        return await _with_servers(profile, config, secrets(), origin, find) if config.mcp_servers else profile

    return part


async def config_of(store: TemplateStore, origin: Origin) -> TemplateConfig | None:
    """What the session's template said when it began; None: there was none. Waits until the database serves.

    Raises WorkletStartFailed: without it the worklet would be wider than its template says.
    """
    if origin.template is None:
        return None
    while True:
        try:
            return await store.config_of(SessionId(origin.session_id))
        except StoreUnavailable as error:
            log.debug("the database does not serve; waiting", error=error.sentence())
            await asyncio.sleep(_PAUSE)
        except FlowError as error:
            raise WorkletStartFailed(
                f"What this thread's template says cannot be read: {error}", suggestion="Write again in a moment."
            ) from error


def narrowed(profile: Profile, config: TemplateConfig) -> Profile:
    """The profile with the template's resources, way out, variables and instructions."""
    asked, egress = config.resources or Resources(), config.egress or Egress(mode="open")
    if egress.mode != "open":
        profile = tightened(profile, egress.hosts)
    env = {name: value for name, value in config.env.items() if not is_reserved(name)}
    refused = sorted(config.env.keys() - env)  # an earlier Flow may have stored it
    note = f"The template: {', '.join(refused)} {'is' if len(refused) == 1 else 'are'} not for templates to set."
    return replace(
        profile,
        base=config.image or profile.base,
        memory=_lower(profile.memory, None if asked.memory is None else max(LEAST_MEMORY, asked.memory)),
        cpus=_lower(profile.cpus, None if asked.cpus is None else max(LEAST_CPUS, asked.cpus)),
        pids=_lower(profile.pids, asked.pids),
        env={**env, **profile.env},
        notes=(*profile.notes, *([note] if refused else [])),
        instructions="\n\n".join(filter(None, (profile.instructions, config.instructions))),
    )


async def _with_servers(
    profile: Profile, config: TemplateConfig, secrets: SecretStore | None, origin: Origin, find: Find
) -> Profile:
    known = [name for name in config.mcp_servers if name in BUILT_IN]
    unknown = [name for name in config.mcp_servers if name not in BUILT_IN]
    notes = [f"There is no MCP server {name}; there are {', '.join(BUILT_IN)}." for name in unknown]
    servers = [McpServer(name, builtin=name) for name in known]
    resolved = await resolve(servers, secrets, origin.repository, find)
    known_as = identities(servers, resolved.servers, origin.repository, find)
    grants = {"mcp": {**profile.grants.get("mcp", {}), **resolved.grant}} if resolved.grant else {}
    return replace(
        profile,
        grants={**profile.grants, **grants},
        mcp_servers={**profile.mcp_servers, **resolved.servers},
        mcp_identities={**profile.mcp_identities, **known_as},
        notes=(*profile.notes, *(f"The template: {note}" for note in (*notes, *resolved.notes))),
    )


def _lower(one: N | None, other: N | None) -> N | None:
    return min((value for value in (one, other) if value is not None), default=None)
