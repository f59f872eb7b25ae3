"""What the Docker engine lists, while other tests make and remove."""

from __future__ import annotations

import subprocess


def listed(*words: str) -> list[str]:
    """The lines of `docker …`; asked again where the engine fails, at something that goes in this moment, say."""
    for _ in range(10):
        done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=100)
        if not done.returncode:
            return done.stdout.splitlines()
    raise AssertionError(done.stderr)
