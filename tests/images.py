"""The worklet image for tests: built once, when missing or stale."""

import os

from worklets.imagebuild import build, needs_build

IMAGE = os.environ.get("FLOW_TEST_IMAGE", "flow-worklet:latest")  # another name for each checkout on one machine
_checked: set[str] = set()


async def worklet_image(image: str = IMAGE) -> str:
    """The tag of a fresh worklet image. Takes minutes where nothing is cached, milliseconds else."""
    if image not in _checked:
        if await needs_build(image):
            await build(image, lambda line: os.write(2, f"{line}\n".encode()) and None)
        _checked.add(image)
    return image
