"""The worklet image for tests: built once, when missing or stale."""

import asyncio
import fcntl
import os
import tempfile
from pathlib import Path

from worklets.imagebuild import build, needs_build

IMAGE = os.environ.get("FLOW_TEST_IMAGE", "flow-worklet:latest")  # another name for each checkout on one machine
_LOCK = Path(tempfile.gettempdir()) / f"flow-test-image-{os.getuid()}.lock"
_checked: set[str] = set()


async def worklet_image(image: str = IMAGE) -> str:
    """The tag of a fresh worklet image. Takes minutes where nothing is cached, milliseconds else."""
    if image not in _checked:
        if await needs_build(image):
            await _build_once(image)
        _checked.add(image)
    return image


async def _build_once(image: str) -> None:
    """Processes of a suite want it at the same moment: one builds, the others wait for it."""
    with _LOCK.open("ab") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if await needs_build(image):
            await build(image, lambda line: os.write(2, f"{line}\n".encode()) and None)
