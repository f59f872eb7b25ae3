"""Git as Flow runs it on its own machine, outside every worklet.

Addresses come from Slack messages, so they are not trusted: only https, ssh and git over ssh are spoken (git's `ext::`
and other helpers run commands), nothing that looks like an option passes, no hooks run, nobody is prompted. Git's
environment holds nothing of Flow's but what reaches a host (PATH; HOME for ssh keys, where ssh is spoken) and the one
repository's login, which a credential helper gives to that host alone: it stands neither in arguments nor in any
repository's config. Over https no login of this machine's own is used (its configuration, helpers, ~/.netrc): whoever
may write to Flow could else clone what its administrator may read.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from worklets.errors import CloneFailed

_REMOTE = re.compile(
    r"https://[^/\s]+/\S+|ssh://[^-/\s][^/\s]*/\S+|[A-Za-z0-9._]+@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s:-]\S*"
)
#: Up to the last @: a password may hold one, and a slash too where whoever wrote it did not escape it.
_USERINFO = re.compile(r"(?<=https://)\S+@|(?<=http://)\S+@|(?<=://)[^/\s]+@")
_PASSED = ("HOME", "PATH", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "HTTPS_PROXY", "https_proxy", "NO_PROXY")
_HELPER = '!f() { [ "$1" = get ] && printf "username=%s\\npassword=%s\\n" "$FLOW_GIT_USER" "$FLOW_GIT_PASSWORD"; }; f'
_CONFIG = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "protocol.ext.allow=never",
    "-c", "http.followRedirects=initial",
    "-c", "advice.detachedHead=false",
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
    "-c", "core.packedGitLimit=2g",  # of large packs that it maps, so that it stays below _MOST_MEMORY
)  # fmt: skip
_NOBODY = {"HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": os.devnull}
_MOST_SAID = 64 << 10  # bytes of git's errors
_MOST_MEMORY = 8 << 30  # bytes of address space of each process of git: what it unpacks is strangers'
_MOST_PRINTED = 32 << 20  # bytes: some hundred thousand branches
_CHUNK = 65_536
_END_SECONDS = 10.0  # for a killed git to be gone


@dataclass(frozen=True, slots=True)
class Login:
    """What a host takes for one repository."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a repository is: an address without a password in it, and the login beside it.

    `name` and `branch` (to begin at): as configured.
    """

    address: str
    login: Login | None = None
    name: str | None = None
    branch: str | None = None


class GitSaid(Exception):
    """What git wrote before it failed."""


class Git:
    """`environ`: of it only what git needs is handed on. `local`: addresses may lead to this machine."""

    def __init__(self, environ: Mapping[str, str] | None = None, *, local: bool = False) -> None:
        self._environ, self._local = environ or {}, local

    def check(self, address: str, branch: str | None = None) -> None:
        """Raises CloneFailed for what must not reach git."""
        allowed = _REMOTE.fullmatch(address) is not None
        if self._local:
            allowed = allowed or re.fullmatch(r"(file://)?/\S.*|http://127\.0\.0\.1:\d+/\S+", address) is not None
        if allowed and _has_half_a_login(address):
            raise CloneFailed(
                f"{without_password(address)[:200]} is written with a login that has a / or ? or # in it.",
                suggestion="Write such letters of a password as %2F, %3F and %23.",
            )
        if not allowed or re.search(r"[\x00-\x1f]", address):
            raise CloneFailed(
                f"{masked(address)[:200]} is no repository address that Flow clones.",
                suggestion="Write https://host/owner/name or git@host:owner/name.",
            )
        if branch is not None and not is_branch_name(branch):
            raise CloneFailed(
                f"{branch[:100]!r} is no branch name.", suggestion="Write branch=<name>, for example branch=main."
            )

    async def run(self, *words: str, source: Source | None = None, heard: Callable[[bytes], None] | None = None) -> str:
        """What `git <words>` printed. Raises GitSaid; CloneFailed where there is no git. Ended when cancelled.

        `heard` is given what is printed, as it comes; nothing of that is returned, and what it raises ends git.
        """
        env = self._env(source)
        try:
            process = await asyncio.create_subprocess_exec(
                "git", *_CONFIG, *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, env=env, start_new_session=True,
                umask=0o022,  # worklets, as another user, read what lies in a mirror
            )  # fmt: skip
        except FileNotFoundError as e:
            raise CloneFailed(
                "Flow needs git to clone.", suggestion="Install git on the machine that runs Flow."
            ) from e
        _hold(process.pid)
        reading = asyncio.create_task(_printed(process, heard)), asyncio.create_task(_said(process))
        try:
            printed, said = await asyncio.gather(*reading)
            await process.wait()
        except BaseException:
            for task in reading:
                task.cancel()
            await asyncio.wait(reading)
            await _end(process)
            raise
        if process.returncode:
            raise GitSaid(said.decode(errors="replace"))
        return printed.decode(errors="replace")

    def _env(self, source: Source | None) -> dict[str, str]:
        env = {
            "PATH": os.defpath,
            **{name: self._environ[name] for name in _PASSED if name in self._environ},
            **({} if source is not None and _is_ssh(source.address) else _NOBODY),
            "LANG": "C.UTF-8",  # the reason is shown to people, in one language
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new -oConnectTimeout=15",
            "GIT_ALLOW_PROTOCOL": self._protocols(source),
            "GIT_LFS_SKIP_SMUDGE": "1",
        }
        pairs = [("credential.helper", "")]  # none of this machine's: they would tell, and store what they are told
        if source is not None and source.login is not None and "://" in source.address:
            parts = urlsplit(source.address)
            scope = f"credential.{parts.scheme}://{parts.netloc}.helper"
            pairs += [(scope, ""), (scope, _HELPER)]
            env |= {"FLOW_GIT_USER": source.login.username, "FLOW_GIT_PASSWORD": source.login.password}
        env["GIT_CONFIG_COUNT"] = str(len(pairs))
        for at, (key, value) in enumerate(pairs):
            env |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": value}
        return env

    def _protocols(self, source: Source | None) -> str:
        """What git may speak. Without a source no host is asked: a clone is made of the mirror on this disk."""
        if source is None:
            return "file"
        return "https:http:ssh:file" if self._local else "https:ssh"


def parted(address: str, name: str | None = None) -> Source:
    """An address as people write it; a password in it becomes the login."""
    found = re.match(r"https?://([^/?#\s]+)@", address)
    if found is None:
        return Source(address, None, name)
    username, _, password = found[1].partition(":")
    login = Login(unquote(username), unquote(password))
    return Source(address[: found.start(1)] + address[found.end() :], login, name)


def _has_half_a_login(address: str) -> bool:
    """Whether an @ stands after the host: what git would take for the host is the first part of a login then."""
    return re.fullmatch(r"https?://[^/?#\s]*[/?#]\S*@\S*", address) is not None


def _is_ssh(address: str) -> bool:
    return address.startswith("ssh://") or ("://" not in address and not address.startswith("/"))


def is_branch_name(name: str) -> bool:
    """As far as git's arguments go: no option, no ref syntax; git itself is stricter."""
    return re.fullmatch(r"[^-\s~^:?*\[\\\x00-\x1f][^\s~^:?*\[\\\x00-\x1f]*", name) is not None


def work_branch(title: str, session_id: str) -> str:
    """The branch of a session's own: what it is about, and which one it is."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-")
    return f"flow/{slug or 'session'}-{session_id[:8]}"


def noreply(user_id: str) -> str:
    """An address that is nobody's (RFC 2606), for somebody whose own Flow may not read."""
    return f"{re.sub('[^A-Za-z0-9]', '', user_id).lower()}@flow.invalid"


def masked(text: str) -> str:
    """`text` with the user and password of every URL in it hidden."""
    return _USERINFO.sub("***@", text)


def without_password(repository: str) -> str:
    """The address as it may be shown and handed to a worklet: what stands before the host is left out."""
    return _USERINFO.sub("", repository)


def reason(said: str) -> str:
    """Git's last word that says something, as a sentence."""
    lines = [line.strip() for line in masked(said).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    line = (told or lines or ["git gave no reason"])[-1]
    if "could not read Username" in said or "Authentication failed" in said:
        line = "it does not exist or needs a login"
    if "and the repository exists" in said and len(told) > 1:
        line = told[-2]
    line = re.sub(r"^(fatal|error|remote): ", "", line).rstrip(".")
    return f"{line}."


def symref(said: str) -> str | None:
    """The branch that HEAD names, in what `ls-remote --symref` says."""
    for line in said.splitlines():
        what, _, ref = line.partition("\t")
        if ref == "HEAD" and what.startswith("ref: refs/heads/"):
            return what.removeprefix("ref: refs/heads/")
    return None


def failed(source: Source, why: str) -> CloneFailed:
    """`why` as a sentence."""
    return CloneFailed(f"{masked(source.address)} could not be cloned: {why}")


def _hold(pid: int) -> None:
    """Its processes, which it starts later, are held to the same."""
    with suppress(OSError, ValueError):  # it has ended, or is held to less
        resource.prlimit(pid, resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))


async def _printed(process: asyncio.subprocess.Process, heard: Callable[[bytes], None] | None) -> bytes:
    """Raises GitSaid for a host whose list of branches has no end."""
    assert process.stdout is not None
    parts, size = [], 0
    while chunk := await process.stdout.read(_CHUNK):
        if heard is not None:
            heard(chunk)
            continue
        parts.append(chunk)
        size += len(chunk)
        if size > _MOST_PRINTED:
            raise GitSaid("fatal: the repository has too many branches")
    return b"".join(parts)


async def _said(process: asyncio.subprocess.Process) -> bytes:
    """The end of it: what a host says comes through here too."""
    assert process.stderr is not None
    end = b""
    while chunk := await process.stderr.read(_CHUNK):
        end = (end + chunk)[-_MOST_SAID:]
    return end


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends git with its helpers (ssh, remote-https): they share its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    await stream.read()  # what was on its way: asyncio waits for the end of each pipe
            await process.wait()
