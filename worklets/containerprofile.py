"""A repository's container.yaml as a worklet's profile: read once, held to what the settings allow, kept outside.

It is read from the clone before that goes into the worklet's volume, and kept beside the worklet's run directory, where
nothing inside reaches it: what Claude writes into the file counts for new worklets only, once it is in the repository.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from config.units import format_duration, format_size
from worklets.containerkeys import PLACE
from worklets.containeryaml import ContainerConfig, parse
from worklets.egressgrants import Grant, tightened
from worklets.errors import WorkletError
from worklets.mcpidentity import identities
from worklets.mcpservers import Find, resolve
from worklets.profile import LEAST_MEMORY, Origin, Profile
from worklets.rundir import AGENT_UID, worklet_dir
from worklets.yamltree import LONGEST

if TYPE_CHECKING:
    from worklets.egress import EgressPolicy
    from worklets.secrets import SecretStore

N = TypeVar("N", int, float)

_KEPT = "container.yaml"
_MISNAMED = f"{PLACE.removesuffix('yaml')}yml"  # who wrote it relies on it
_SHOWN = 5  # faults that a thread is told
_TOLD = 5  # limits that it goes beyond, which a thread is told


class ContainerYamlWrong(WorkletError):
    """The repository's .claude/container.yaml cannot be used."""

    def __init__(self, faults: list[str]) -> None:
        more = [f"{len(faults) - _SHOWN} more."] if len(faults) > _SHOWN else []
        # What to do stands first: of many long faults the last ones may be cut.
        head = (
            f"{PLACE} cannot be used. Correct it in the repository (`flow container check` tells the same), then write "
            "again:"
        )
        shown = [re.sub(f"^{re.escape(PLACE)}:", "line ", fault) for fault in faults[:_SHOWN]]
        super().__init__("\n".join([head, *shown, *more]))


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the administrator gives a worklet. `memory` in bytes, `turn` in seconds (None: any time)."""

    memory: int
    cpus: float
    turn: float | None
    egress: EgressPolicy


@dataclass(frozen=True, slots=True)
class Tightened:
    """`config` as it counts; `notes`: by key, sentences on what the file asked for and does not get."""

    config: ContainerConfig
    notes: tuple[tuple[str, str], ...] = ()


def held_to(config: ContainerConfig, allowed: Allowed) -> Tightened:
    """The configuration with nothing in it beyond what is allowed."""
    notes: list[tuple[str, str]] = []

    def note(key: str, rest: str) -> None:
        notes.append((key, f"{key} {rest}"))

    memory, cpu, timeout, least = config.memory, config.cpu, config.timeout, min(LEAST_MEMORY, allowed.memory)
    if memory is not None and memory > allowed.memory:
        note("resources.memory", f"asks for {format_size(memory)}; a worklet has {format_size(allowed.memory)}.")
        memory = None
    elif memory is not None and memory < least:
        note("resources.memory", f"asks for {format_size(memory)}; Claude Code needs {format_size(least)}.")
        memory = least
    if cpu is not None and cpu > allowed.cpus:
        note("resources.cpu", f"asks for {cpu:g}; a worklet has {allowed.cpus:g}.")
        cpu = None
    if timeout is not None and allowed.turn is not None and timeout > allowed.turn:
        has = format_duration(allowed.turn)
        note("resources.timeout", f"asks for {format_duration(timeout)}; a turn has {has}.")
        timeout = None
    if config.run_as_user not in (None, AGENT_UID):
        note("security.runAsUser", f"asks for {config.run_as_user}; Claude is user {AGENT_UID} in every worklet.")
    if config.read_only_root is False:
        note("security.readOnlyRoot", "asks for a root that can be written; it cannot: use the workspace or /tmp.")
    for why in _unreachable(config, allowed.egress):
        note("security.allowedDomains", why)
    return Tightened(replace(config, memory=memory, cpu=cpu, timeout=timeout), tuple(notes))


def _unreachable(config: ContainerConfig, egress: EgressPolicy) -> list[str]:
    if config.network_mode == "none" or not config.allowed_domains:
        return []
    if egress.mode == "none":
        return ["names hosts; Flow's administrator lets worklets reach nothing outside."]
    notes, asking = [], replace(egress, grant=Grant(asks=True))  # people may allow what they are asked for
    for rule in config.allowed_domains:
        name = f"any.{rule.name}" if rule.below else rule.name
        ports = (rule.port,) if rule.port else egress.ports
        refusals = [asking.refusal(name, port) for port in ports]
        if all(refusals) and not any(asking.may_ask(name, port) for port in ports):
            notes.append(f"names {rule}; {refusals[0]}.")
    return notes


class ContainerProfiles:
    """A learner and a part for `bot.profiles.Composed`, which every worklet goes through."""

    def __init__(
        self,
        share_dir: Path,
        allowed: Allowed,
        secrets: Callable[[], SecretStore | None],
        find: Find = lambda _: None,
    ) -> None:
        self._share_dir, self._allowed, self._secrets, self._find = share_dir, allowed, secrets, find

    async def learn(self, name: str, origin: Origin, checkout: Path) -> None:  # noqa: ARG002 - the seam has it
        """Raises ContainerYamlWrong with all that is wrong, each with its line."""
        await asyncio.to_thread(self._learn, name, checkout)

    def _learn(self, name: str, checkout: Path) -> None:
        try:
            data = read_file(checkout)
            if data is None and (fault := misnamed(checkout)):
                raise ContainerYamlWrong([fault])
            if data is None:
                (worklet_dir(self._share_dir, name) / _KEPT).unlink(missing_ok=True)
                return
        except OSError as error:
            raise _unkept(error) from error
        if faults := parse(data)[1]:
            raise ContainerYamlWrong(faults)
        self._keep(name, data)

    async def config(self, name: str) -> ContainerConfig:
        """What was learned for that worklet, as it came; empty where there was nothing. Raises WorkletError."""
        return await asyncio.to_thread(self._config, name)

    def _config(self, name: str) -> ContainerConfig:
        try:
            data = (worklet_dir(self._share_dir, name) / _KEPT).read_bytes()
        except FileNotFoundError:
            return ContainerConfig()
        except OSError as error:
            raise _unkept(error) from error
        config, faults = parse(data)
        if faults:  # a newer Flow may be stricter than the one that learned it
            raise ContainerYamlWrong(faults)
        return config

    async def forked(self, source: str, name: str) -> None:
        """Worklet `name` has a copy of `source`'s volume, so what was learned for that holds for it too."""
        await asyncio.to_thread(self._forked, source, name)

    def _forked(self, source: str, name: str) -> None:
        try:
            data = (worklet_dir(self._share_dir, source) / _KEPT).read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unkept(error) from error
        self._keep(name, data)

    def _keep(self, name: str, data: bytes) -> None:
        kept = worklet_dir(self._share_dir, name) / _KEPT
        try:
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = kept.with_suffix(".new")
            new.write_bytes(data)
            new.replace(kept)
        except OSError as error:
            raise _unkept(error) from error

    async def part(self, name: str, origin: Origin, profile: Profile) -> Profile:
        """Raises WorkletError."""
        config = await self.config(name)
        if config == ContainerConfig():
            return profile
        held = held_to(config, self._allowed)
        mine = [one for one in held.config.mcp_servers if one.name not in profile.mcp_servers]
        theirs = [one.name for one in held.config.mcp_servers if one not in mine and one.builtin != one.name]
        notes = [text for _, text in held.notes[:_TOLD]]
        if (more := len(held.notes) - _TOLD) > 0:
            notes.append(f"{more} more that it asks for, and does not get, are listed by `flow container check`.")
        notes += [f"The MCP server {name} is the template's, whatever stands here." for name in theirs]
        resolved = await resolve(mine, self._secrets(), origin.repository, self._find)
        known = identities(mine, resolved.servers, origin.repository, self._find)
        profile = _merged(profile, held.config)
        if resolved.grant:
            servers = {**profile.grants.get("mcp", {}), **resolved.grant}
            profile = replace(profile, grants={**profile.grants, "mcp": servers})
        profile = replace(
            profile,
            mcp_servers={**profile.mcp_servers, **resolved.servers},
            mcp_aliases={**profile.mcp_aliases, **resolved.aliases},
            mcp_identities={**profile.mcp_identities, **known},
        )
        notes += [one for one in resolved.notes if not any(one in told for told in profile.notes)]
        if config.network_mode == "none":
            profile, left_out = _cut_off(profile)
            if left_out:
                notes.append(f"security.networkMode is none, so these MCP servers are left out: {left_out}.")
        return replace(profile, notes=(*profile.notes, *(f"{PLACE}: {note}" for note in notes)))


def _cut_off(profile: Profile) -> tuple[Profile, str]:
    """Without MCP servers that have an address, or Flow's gateway for one; and their names."""
    outside = {name for name, one in profile.mcp_servers.items() if "url" in one}
    servers = {name: one for name, one in profile.mcp_servers.items() if name not in outside}
    grants = {subject: grant for subject, grant in profile.grants.items() if subject != "mcp"}
    return replace(profile, mcp_servers=servers, grants=grants), ", ".join(sorted(outside))


def _unkept(error: OSError) -> WorkletError:
    return WorkletError(
        f"What the repository's {PLACE} says could not be kept, or not be read: {error.strerror or error}.",
        suggestion="Check the disk and the rights of FLOW_SHARE_DIR, then write again.",
    )


def _merged(profile: Profile, config: ContainerConfig) -> Profile:
    """The lower of two limits counts."""
    if config.network_mode == "none":
        profile = tightened(profile, [])
    elif config.allowed_domains is not None:
        profile = tightened(profile, map(str, config.allowed_domains))
    called = [f"This repository's environment is called {config.name}."] if config.name else []
    return replace(
        profile,
        instructions="\n\n".join(filter(None, (profile.instructions, *called))),
        base=config.base_image or profile.base,
        memory=_lower(profile.memory, config.memory),
        cpus=_lower(profile.cpus, config.cpu),
        turn_timeout=_lower(profile.turn_timeout, config.timeout),
        allowed=profile.allowed if config.allowed is None else config.allowed,
    )


def _lower(one: N | None, other: N | None) -> N | None:
    return min((value for value in (one, other) if value is not None), default=None)


def misnamed(checkout: Path) -> str | None:
    """What to say where the file lies beside the place that is read."""
    return f"{_MISNAMED} is not read; call it {PLACE}." if os.path.lexists(checkout / _MISNAMED) else None


def read_file(checkout: Path) -> bytes | None:
    """The file's bytes, one more than are read at most; None: there is none. No link of the repository is followed.

    Raises OSError, WorkletError for what is no file.
    """
    directory, _, name = PLACE.partition("/")
    try:
        folder = os.open(checkout / directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError:  # a link, or a file: nothing that could hold one
        if (checkout / directory / name).exists():
            raise WorkletError(f"{directory} is a link in this repository, which Flow does not follow.") from None
        return None
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError:
        raise WorkletError(f"{PLACE} is a link in this repository, which Flow does not follow.") from None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise WorkletError(f"{PLACE} is no file in this repository.")
    with os.fdopen(file, "rb") as opened:
        return opened.read(LONGEST + 1)
