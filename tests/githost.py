"""A host of git repositories on loopback: `git http-backend` behind HTTP with logins, as GitHub and GitLab are."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web
from loopback import served

USER, TOKEN = "x-access-token", "ghp_0123456789abcdefREALREALREAL"
WHO = {f"GIT_{one}_{what}": "a@b" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@dataclass
class GitHost:
    root: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)  # method, path, who
    pulls: list[dict[str, str]] = field(default_factory=list)
    merges: list[dict[str, str]] = field(default_factory=list)  # GitLab's

    def make(self, name: str, *, files: dict[str, str] | None = None) -> Path:
        """A bare repository with one commit on main."""
        path, work = self.root / name, self.root / f"{name}.work"
        path.parent.mkdir(parents=True, exist_ok=True)
        git("init", "-q", "-b", "main", str(work))
        for file, text in {"file": "one", **(files or {})}.items():
            (work / file).parent.mkdir(parents=True, exist_ok=True)
            (work / file).write_text(text)
        git("-C", str(work), "add", ".")
        git("-C", str(work), "commit", "-q", "-m", "one")
        git("clone", "-q", "--bare", str(work), str(path))
        git("-C", str(path), "config", "http.receivepack", "true")
        git("-C", str(path), "config", "receive.advertisePushOptions", "true")
        return path

    def branches(self, name: str) -> dict[str, str]:
        """Commits' messages and authors by branch."""
        said = git("-C", str(self.root / name), "for-each-ref", "--format=%(refname:short)|%(subject)|%(authorname)"
                   " %(authoremail)", "refs/heads", "refs/tags")  # fmt: skip
        return {name: what for name, _, what in (line.partition("|") for line in said.splitlines())}


def git(*words: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **WHO}
    return subprocess.run(["git", *words], env=env, check=True, capture_output=True, text=True).stdout


@asynccontextmanager
async def git_host(root: Path, tls: ssl.SSLContext | None = None) -> AsyncIterator[GitHost]:
    host = GitHost(root)
    root.mkdir(parents=True, exist_ok=True)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if request.path.startswith("/api/v3/repos/"):
            return await _pulls(host, request, given)
        if request.path.startswith("/api/v4/projects/"):
            return await _merge_requests(host, request)
        who = base64.b64decode(given.removeprefix("Basic ")).decode() if given.startswith("Basic ") else ""
        host.requests.append(f"{request.method} {request.path} {who.partition(':')[0]}")
        if who != f"{USER}:{TOKEN}":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        return await _backend(root, request)

    async with served(handle, tls, auto_decompress=False) as address:  # git itself unpacks
        host.url = f"{'https' if tls else 'http'}://{address}"
        yield host


async def _pulls(host: GitHost, request: web.BaseRequest, given: str) -> web.StreamResponse:
    """`POST /repos/{owner}/{repo}/pulls` as GitHub answers it."""
    name = "/".join(request.path.split("/")[4:6])
    if given != f"Bearer {TOKEN}":
        return web.json_response({"message": "Bad credentials"}, status=401)
    wanted = await request.json()
    if wanted["head"] not in host.branches(f"{name}.git"):
        errors = [{"resource": "PullRequest", "field": "head", "code": "invalid"}]
        return web.json_response({"message": "Validation Failed", "errors": errors}, status=422)
    host.pulls.append({**wanted, "repository": name})
    number = len(host.pulls)
    told = {"number": number, "html_url": f"{host.url}/{name}/pull/{number}", "additions": 1, "deletions": 1}
    return web.json_response({**told, "changed_files": 1}, status=201)


async def _merge_requests(host: GitHost, request: web.BaseRequest) -> web.StreamResponse:
    """`POST /projects/:id/merge_requests` as GitLab answers it; the id is the whole path, each slash as %2F."""
    parts = str(request.rel_url.raw_path).split("/")
    if request.headers.get("PRIVATE-TOKEN") != TOKEN:
        return web.json_response({"message": "401 Unauthorized"}, status=401)
    name = unquote(parts[4])
    if len(parts) != 6 or parts[5] != "merge_requests" or not (host.root / f"{name}.git").is_dir():
        return web.json_response({"message": "404 Project Not Found"}, status=404)
    wanted = await request.json()
    if wanted["source_branch"] not in host.branches(f"{name}.git"):
        return web.json_response({"message": {"source_branch": ["does not exist"]}}, status=422)
    if any(one["source_branch"] == wanted["source_branch"] for one in host.merges):
        said = "Another open merge request already exists for this source branch: !1"
        return web.json_response({"message": [said]}, status=409)
    host.merges.append({**wanted, "repository": name})
    number = len(host.merges)
    told = {"id": 9_000 + number, "iid": number, "web_url": f"{host.url}/{name}/-/merge_requests/{number}"}
    return web.json_response({**told, "changes_count": "1"}, status=201)


async def _backend(root: Path, request: web.BaseRequest) -> web.StreamResponse:
    """RFC 3875, as far as git-http-backend(1) needs it."""
    env = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query_string,
        "REQUEST_METHOD": request.method,
        "REMOTE_USER": USER,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
    }
    process = await asyncio.create_subprocess_exec(
        "git", "http-backend", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=env
    )
    body = await request.read()
    out, _ = await process.communicate(body)
    head, _, rest = out.partition(b"\r\n\r\n")
    status, headers = 200, {}
    for line in head.decode().splitlines():
        name, _, value = line.partition(": ")
        if name == "Status":
            status = int(value.split()[0])
        else:
            headers[name] = value
    return web.Response(status=status, headers=headers, body=rest)
