"""Builds the worklet image from worklets/image, worklets/relay and kvstore, with the versions that are installed here.

The image carries a hash of its build context in a label, so that Flow can tell a stale image from a fresh one.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklets.engine import Engine, EngineAt
from worklets.errors import ImageMissing

if TYPE_CHECKING:
    from docker import DockerClient

LABEL = "flow.context"
_HERE = Path(__file__).parent
_STORE = _HERE.parent / "kvstore"
BUILD_SECONDS = 3600.0
_SILENT = 1800.0  # seconds that a build may say nothing
_LAST = 3  # lines of a build that failed, in its sentence
BASES = "Use one of Debian 12, Ubuntu 24.04 or newer, such as node:22-bookworm or python:3.12-bookworm."
_BROWSER_NEEDS = "Chromium comes from Debian's packages (Ubuntu has none of it), the server from npm's registry."


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is made from: files by name, the Dockerfile among them, and build arguments.

    `needs`: a sentence for people about what can be under it, where it could not be built.
    """

    files: Mapping[str, bytes]
    arguments: Mapping[str, str]
    needs: str = BASES

    def fingerprint(self) -> str:
        """12 hex digits over all of it."""
        digest = hashlib.sha256(repr(sorted(self.arguments.items())).encode())
        for name, data in self.files.items():
            digest.update(name.encode() + b"\0" + data + b"\0")
        return digest.hexdigest()[:12]

    def tar(self) -> bytes:
        """The context as a tar archive; fixed times and owners, so that the engine's layer cache works anywhere."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, data in self.files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
        return packed.getvalue()

    def on(self, base: str) -> Recipe:
        """The same on another base image, whatever user and shell that one ends with."""
        head, found, rest = self.files["Dockerfile"].partition(b"\nFROM ${BASE}\n")
        dockerfile = head + found + b'USER root\nSHELL ["/bin/sh", "-c"]\n' + rest
        return replace(self, files={**self.files, "Dockerfile": dockerfile}, arguments={**self.arguments, "BASE": base})


def recipe() -> Recipe:
    """The worklet image's."""
    return Recipe({name: path.read_bytes() for name, path in _context()}, _arguments())


def browser_recipe() -> Recipe:
    """What is put on a worklet image for the MCP server playwright."""
    directory = _HERE / "image" / "browser"
    names = ("Dockerfile", "package.json", "package-lock.json")
    return Recipe({name: (directory / name).read_bytes() for name in names}, {}, _BROWSER_NEEDS)


async def build(
    image: str,
    progress: Callable[[str], None] = lambda _: None,
    *,
    base: str | None = None,
    docker_host: EngineAt | str | None = None,
) -> None:
    """Builds `image` (a tag), handing each line of the build to `progress` on the event loop.

    `base` replaces debian:bookworm-slim. Raises RuntimeUnavailable, ImageMissing with the build's last words,
    WorkletError when the engine refuses (a tag that is none, say).
    """
    loop = asyncio.get_running_loop()

    def tell(line: str) -> None:
        loop.call_soon_threadsafe(progress, line)

    engine = Engine(docker_host, timeout=600.0)
    try:
        await engine.call(
            "build",
            lambda client: _build(client, image, base, tell),
            timeout=BUILD_SECONDS,
        )
    finally:
        await engine.close()


async def needs_build(image: str, *, docker_host: EngineAt | str | None = None) -> bool:
    """True when there is no such image, or one that an older Flow built. Raises RuntimeUnavailable.

    An image without Flow's label is somebody's own and left alone.
    """
    engine = Engine(docker_host)
    try:
        labels = await engine.call("query", lambda client: _labels(client, image))
    finally:
        await engine.close()
    return labels is None or labels.get(LABEL, fingerprint()) != fingerprint()


def fingerprint() -> str:
    """12 hex digits over everything that the image is made from."""
    return recipe().fingerprint()


def _labels(client: DockerClient, image: str) -> dict[str, str] | None:
    from docker.errors import ImageNotFound

    try:
        return dict(client.images.get(image).labels)
    except ImageNotFound:
        return None


def _build(client: DockerClient, image: str, base: str | None, progress: Callable[[str], None]) -> None:
    made = recipe()
    wanted = Recipe(made.files, {**made.arguments, "BASE": base}) if base else made
    try:
        run_build(client, wanted, image, {LABEL: made.fingerprint()}, progress)
    except BuildFailed as error:
        raise _failed(image, str(error)) from error


class BuildFailed(Exception):
    """The engine's reason, or the build's last lines, as the end of a sentence."""


def run_build(
    client: DockerClient,
    wanted: Recipe,
    tag: str,
    labels: Mapping[str, str],
    progress: Callable[[str], None],
    limits: Mapping[str, str] | None = None,
) -> None:
    """Builds in the calling thread, handing each line to `progress`, which ends the build by raising something.

    `limits`: further parameters of `POST /build` (Docker Engine API), such as cpushares. Raises BuildFailed, and what
    requests raises.
    """
    api = client.api
    # Not docker-py's own call: that gives no way to hang up, by which a build ends early.
    answer = api.post(
        f"{api.base_url}/v{api.api_version}/build",
        params={
            "t": tag, "labels": json.dumps(dict(labels)), "buildargs": json.dumps(dict(wanted.arguments)), "rm": "1",
            "forcerm": "1", **(limits or {}),
        },
        data=wanted.tar(), headers={"Content-Type": "application/tar"}, stream=True, timeout=_SILENT,
    )  # fmt: skip
    with answer:
        if answer.status_code != 200:
            raise BuildFailed(_refused(answer.text))
        _follow((json.loads(line) for line in answer.iter_lines() if line), progress)


def _refused(text: str) -> str:
    try:
        return str(json.loads(text)["message"]).strip()
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300] or "the engine gave no reason"


def _follow(lines: Iterator[dict[str, Any]], progress: Callable[[str], None]) -> None:
    said, step, error = [""], "", ""
    for line in lines:
        error = error or str(line.get("error", ""))
        for text in filter(None, map(str.rstrip, _words(line).splitlines())):
            if text.startswith("Step "):
                said, step = [], text
            elif not text.startswith((" --->", "Removing intermediate")):
                said = [*said[1 - _LAST :], text.strip()[:300]]
            progress(text)
    if error:
        raise BuildFailed(_reason(error, " / ".join(said) or step))


def _words(line: dict[str, Any]) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(line.get("stream") or line.get("status") or ""))


def _reason(error: str, said: str) -> str:
    """`error` in words: the engine only quotes the command that failed, the line before says why."""
    code = re.search(r"returned a non-zero code: (\d+)", error)
    return f"a build step ended with code {code.group(1)} after: {said}" if code else error.strip()


def _failed(image: str, reason: str) -> ImageMissing:
    if re.search(r"(debian|pull|manifest|registry|repository)", reason) and "a build step" not in reason:
        return ImageMissing(
            f"The base image of {image} is missing and cannot be pulled: {reason}",
            suggestion="Run `make provision`, which makes it from Debian packages, then `flow image build` again.",
        )
    return ImageMissing(
        f"The image {image} could not be built: {reason}", suggestion="Mend that, then `flow image build`."
    )


def _arguments() -> dict[str, str]:
    return {
        "CLAUDE_AGENT_SDK_VERSION": version("claude-agent-sdk"),
        "WEBSOCKETS_VERSION": version("websockets"),
    }


def _context() -> Iterator[tuple[str, Path]]:
    yield "Dockerfile", _HERE / "image" / "Dockerfile"
    for name in ("flowtools.py", "startup.py", "kvstore.md"):
        yield f"flow/{name}", _HERE / "image" / name
    for name in ("package.json", "package-lock.json", "fetch.txt"):
        yield f"mcp/{name}", _HERE / "image" / "mcp" / name
    for path in sorted((_HERE / "relay").glob("*.py")):
        yield f"relay/{path.name}", path
    for path in sorted([*_STORE.glob("*.py"), _STORE / "py.typed"]):
        yield f"kvstore/python/{path.name}", path
    yield "kvstore/node/package.json", _STORE / "typescript" / "package.json"
    for path in sorted((_STORE / "typescript" / "dist").glob("*.*")):
        yield f"kvstore/node/dist/{path.name}", path
