"""Builds the worklet image: context from worklets/image and worklets/relay, versions from what is installed here.

The image carries a hash of its build context in a label, so that Flow can tell a stale image from a fresh one.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklets.engine import Engine
from worklets.errors import ImageMissing

if TYPE_CHECKING:
    from docker import DockerClient

LABEL = "flow.context"
_HERE = Path(__file__).parent
_BUILD_SECONDS = 3600.0


async def build(
    image: str,
    progress: Callable[[str], None] = lambda _: None,
    *,
    base: str | None = None,
    docker_host: str | None = None,
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
            timeout=_BUILD_SECONDS,
        )
    finally:
        await engine.close()


async def needs_build(image: str, *, docker_host: str | None = None) -> bool:
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
    digest = hashlib.sha256(repr(sorted(_arguments(None).items())).encode())
    for name, path in _context():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _labels(client: DockerClient, image: str) -> dict[str, str] | None:
    from docker.errors import ImageNotFound

    try:
        return dict(client.images.get(image).labels)
    except ImageNotFound:
        return None


def _build(client: DockerClient, image: str, base: str | None, progress: Callable[[str], None]) -> None:
    lines = client.api.build(
        fileobj=io.BytesIO(_tar()), custom_context=True, tag=image, labels={LABEL: fingerprint()},
        buildargs=_arguments(base), decode=True, rm=True, forcerm=True,
    )  # fmt: skip
    said, error = "", ""
    for line in lines:  # to the end even after an error: that closes the connection
        error = error or str(line.get("error", ""))
        for text in filter(None, map(str.rstrip, _words(line).splitlines())):
            said = said if text.startswith((" --->", "Removing intermediate")) else text.strip()
            progress(text)
    if error:
        raise _failed(image, _reason(error, said))


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


def _arguments(base: str | None) -> dict[str, str]:
    arguments = {
        "CLAUDE_AGENT_SDK_VERSION": version("claude-agent-sdk"),
        "WEBSOCKETS_VERSION": version("websockets"),
    }
    return {**arguments, "BASE": base} if base else arguments


def _context() -> Iterator[tuple[str, Path]]:
    yield "Dockerfile", _HERE / "image" / "Dockerfile"
    yield "flow/sendfile.py", _HERE / "image" / "sendfile.py"
    for path in sorted((_HERE / "relay").glob("*.py")):
        yield f"relay/{path.name}", path


def _tar() -> bytes:
    """The context as a tar archive; fixed times and owners, so that the engine's layer cache works across checkouts."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, path in _context():
            info = tarfile.TarInfo(name)
            data = path.read_bytes()
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()
