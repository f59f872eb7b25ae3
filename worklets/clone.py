"""Brings a repository into a directory, outside the worklet: the worklet itself has no network.

The address comes from a Slack message, so it is not trusted: only https, ssh and git over ssh are spoken
(git's `ext::` and other helpers run commands), nothing that looks like an option passes, and the clone runs no
hooks, submodules or prompts. Git's environment holds nothing of Flow's but what reaches a host: HOME for ssh
keys and credential helpers, PATH.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from worklets.errors import CloneFailed

_REMOTE = re.compile(
    r"https://[^/\s]+/\S+|ssh://[^-/\s][^/\s]*/\S+|[A-Za-z0-9._]+@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s:-]\S*"
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_PASSED = ("HOME", "PATH", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "HTTPS_PROXY", "https_proxy", "NO_PROXY")


async def clone(
    repository: str,
    branch: str | None,
    destination: Path,
    timeout: float = 300.0,
    *,
    local: bool = False,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Clones `repository` at `branch` (None: its default one) into `destination`, which must be missing or empty.

    `local` also allows file:// and absolute paths. Of `environ` only what git needs is handed on. Raises CloneFailed
    with git's own reason and no password in it; then `destination` is as before.
    """
    _check(repository, branch, local)
    existed = await asyncio.to_thread(destination.exists)
    command = ["git", *_CONFIG, "clone", "--quiet", "--no-recurse-submodules", "--template="]
    command += [f"--branch={branch}"] if branch else []
    env = _environment(environ or {}, local)
    try:
        async with asyncio.timeout(timeout):
            await _git(*command, "--", repository, str(destination), env=env)
            if _USERINFO.search(repository):  # a password in the address must not go into the worklet
                clean = without_password(repository)
                await _git("git", "-C", str(destination), "remote", "set-url", "origin", clean, env=env)
    except TimeoutError:
        await _clear(destination, existed)
        raise CloneFailed(
            f"Cloning {masked(repository)} took longer than {timeout:.0f} s.", suggestion="Try a smaller repository."
        ) from None
    except _GitSaid as e:
        await _clear(destination, existed)
        raise CloneFailed(f"{masked(repository)} could not be cloned: {_reason(str(e))}") from None
    except BaseException:
        await _clear(destination, existed)
        raise


def masked(text: str) -> str:
    """`text` with the user and password of every URL in it hidden."""
    return _USERINFO.sub("***@", text)


def without_password(repository: str) -> str:
    """The address as it may be shown and handed to a worklet: what stands before the host is left out."""
    return _USERINFO.sub("", repository)


_CONFIG = [
    "-c", "core.hooksPath=/dev/null",
    "-c", "protocol.ext.allow=never",
    "-c", "http.followRedirects=initial",
    "-c", "advice.detachedHead=false",
]  # fmt: skip


def _check(repository: str, branch: str | None, local: bool) -> None:
    allowed = _REMOTE.fullmatch(repository) is not None
    if local:
        allowed = allowed or re.fullmatch(r"(file://)?/\S.*", repository) is not None
    if not allowed or re.search(r"[\x00-\x1f]", repository):
        raise CloneFailed(
            f"{masked(repository)[:200]} is no repository address that Flow clones.",
            suggestion="Write https://host/owner/name or git@host:owner/name.",
        )
    if branch is not None and not re.fullmatch(r"[^-\s~^:?*\[\\\x00-\x1f][^\s~^:?*\[\\\x00-\x1f]*", branch):
        raise CloneFailed(
            f"{branch[:100]!r} is no branch name.", suggestion="Write branch=<name>, for example branch=main."
        )


def _environment(environ: Mapping[str, str], local: bool) -> dict[str, str]:
    passed = {name: environ[name] for name in _PASSED if name in environ}
    return {
        "PATH": os.defpath,
        **passed,
        "LANG": "C.UTF-8",  # the reason is shown to people, in one language
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "SSH_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new -oConnectTimeout=15",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file" if local else "https:ssh",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }


def _reason(said: str) -> str:
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


class _GitSaid(Exception):
    """What git wrote before it failed."""


async def _git(*command: str, env: dict[str, str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env=env, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as e:
        raise CloneFailed("Flow needs git to clone.", suggestion="Install git on the machine that runs Flow.") from e
    try:
        _, said = await process.communicate()
    except BaseException:
        await _end(process)
        raise
    if process.returncode:
        raise _GitSaid(said.decode(errors="replace"))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends git with its helpers (ssh, remote-https): they share its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _clear(destination: Path, existed: bool) -> None:
    """Takes away what a broken clone left; git does so itself unless it was killed."""
    await asyncio.to_thread(shutil.rmtree, destination, ignore_errors=True)
    if existed:
        await asyncio.to_thread(destination.mkdir, parents=True, exist_ok=True)
