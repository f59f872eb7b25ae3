"""What a worklet may do with its session's repository: the profile's part about git.

Inside, the repository's own address leads to the gateway (`url.….insteadOf`), with the worklet's token and no login:
whoever reads all of the worklet finds nothing that another could push with. Names and branches come from Flow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from config.errors import FlowError
from worklets.git import Source
from worklets.gitdoor import SUBJECT
from worklets.gitpulls import ALIAS
from worklets.identity import Identity

if TYPE_CHECKING:
    from worklets.mirrors import Mirrors
    from worklets.profile import Origin, Profile
    from worklets.repositories import Repositories

AUTHOR = "gitconfig"  # in the run directory, git's system configuration there: who asks, written for each turn
GATEWAY = "@flow-gateway@"  # where the relay puts its address (worklets/relay/relay.py)
_TOLD = """\
The workspace is a clone of {address}, on this session's own branch {branch}, which began at {base}. Commits are \
authored by whoever asks; add "Co-Authored-By: Claude <noreply@anthropic.com>" to their messages. {push}"""
_FORKED = _TOLD.replace(
    "on this session's own branch {branch}, which began at {base}.",
    "copied from another session, on that one's branch. This session's own branch is {branch}: "
    "begin it with `git switch -c {branch}` before you commit, if it is not there yet.",
)
_PULL = (
    ' `git pull-request "title" "body"` opens a pull request (GitLab: a merge request) of the pushed branch in the '
    "same way."
)
_PUSH = {
    "ask": "`git fetch` works. `git push` goes to this session's branch; the first time people are asked, and the "
    "command waits for them. Other branches need their yes each time, protected ones are refused." + _PULL,
    "allow": "`git fetch` works. `git push` goes to this session's branch; people are asked about others, protected "
    "ones are refused." + _PULL,
    "never": "`git fetch` works; nothing can be pushed from here, people see your work in the thread.",
}
_UNREACHED = "The repository cannot be fetched or pushed from here."


@dataclass(frozen=True, slots=True)
class Decided:
    """What people and rules say of a session's pushes. `answers`: by the request that waits, True or why not.
    `refused`: "*" is all.

    `asked`: rules want people to be asked, whatever FLOW_PUSH says; `pulls_asked`: of pull requests.
    """

    granted: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    answers: Mapping[str, bool | str] | None = None
    pulls: bool | None = None  # pull requests are allowed, or denied, by rules
    asked: bool = False
    pulls_asked: bool = False


class GitGrants:
    """`decided(session_id, own branch)` asks the table. `push`: ask, allow or never."""

    def __init__(
        self,
        repositories: Repositories,
        mirrors: Mirrors,
        identity: Identity,
        decided: Callable[[str, str], Awaitable[Decided]],
    ) -> None:
        self._repositories, self._mirrors, self._identity, self._decided = repositories, mirrors, identity, decided

    async def part(self, name: str, origin: Origin, profile: Profile) -> Profile:
        """See `bot.profiles.Part`. Where settings or secrets have changed since it was cloned, it is out of reach."""
        if origin.repository is None:
            return profile
        try:
            source = await self._repositories.source(origin.repository)
        except FlowError as e:
            note = f"The repository cannot be fetched or pushed from here: {e}"
            told = "\n\n".join(filter(None, (profile.instructions, f"{_UNREACHED} Flow says: {e}")))
            return replace(profile, instructions=told, notes=(*profile.notes, note))
        pairs, grants = [("push.default", "current"), ("push.autoSetupRemote", "true")], dict(profile.grants)
        if (grant := await self.grant(name, origin)) is not None:
            grants[SUBJECT] = grant
            here, token = f"{GATEWAY}/flow/git/{grant['name']}", self._identity.token("gateway", name)
            pairs += [(f"url.{here}.insteadOf", source.address)]
            pairs += [(f"alias.{one}-request", ALIAS.replace("%s", grant["name"])) for one in ("pull", "merge")]
            pairs += [(f"http.{GATEWAY}/.extraHeader", f"Authorization: Bearer {token}")]
        env = {"GIT_CONFIG_COUNT": str(len(pairs)), "GIT_TERMINAL_PROMPT": "0"}
        for at, (key, value) in enumerate(pairs):
            env |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": value}
        told = "\n\n".join(filter(None, (profile.instructions, self._instructions(origin, source))))
        return replace(profile, env={**profile.env, **env}, grants=grants, instructions=told)

    async def grant(self, name: str, origin: Origin) -> dict[str, Any] | None:
        """The worklet's for the gateway as things stand now (`worklets.gitdoor`); None: it has none.

        Raises SecretError, CloneFailed.
        """
        if origin.repository is None:
            return None
        source = await self._repositories.source(origin.repository)
        if not is_reached(source):
            return None
        own = origin.work_branch or ""
        decided = await self._decided(origin.session_id, own)
        settings, pulls = self._repositories.settings, decided.pulls
        return {
            "name": source.name,
            "url": source.address.rstrip("/"),
            "username": source.login.username if source.login else "",
            "password": source.login.password if source.login else "",
            "push": "ask" if settings.push == "allow" and decided.asked else settings.push,
            "own": own,
            "granted": sorted(decided.granted),
            "refused": sorted(decided.refused),
            "answers": dict(decided.answers or {}),
            "protected": list(settings.protected),
            "pulls": True if pulls is None and settings.push == "allow" and not decided.pulls_asked else pulls,
            "api": settings.api,
            "base": self._repositories.branch_of(origin.repository, origin.branch),
            "default": await asyncio.to_thread(self._mirrors.default_of, name),
        }

    def _instructions(self, origin: Origin, source: Source) -> str:
        push = self._repositories.settings.push
        over = _PUSH[push] if is_reached(source) else _UNREACHED
        base = self._repositories.branch_of(origin.repository or "", origin.branch) or "its default branch"
        told = _FORKED if origin.forked else _TOLD
        return told.format(address=source.address, branch=origin.work_branch, base=base, push=over)


def is_reached(source: Source) -> bool:
    """Whether a worklet comes to it by the gateway: only hosts that the administrator named, whatever people write.

    Another would be a way out of a worklet that has none.
    """
    return source.name is not None and source.address.startswith(("https://", "http://"))


def author_config(name: str, email: str) -> str:
    """The file that git reads as whose commits these are; both may be anything."""
    return f'[user]\n\tname = "{_quoted(name) or "Somebody"}"\n\temail = "{_quoted(email)}"\n'


def _quoted(text: str) -> str:
    """git-config(1): backslash and quote are escaped; git itself drops < and > from names."""
    plain = "".join(letter for letter in text if letter.isprintable())[:100].strip()
    return plain.replace("\\", "\\\\").replace('"', '\\"')
