"""TypeScript's compiler, as kvstore/typescript pins it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "kvstore" / "typescript"
_TSC = PACKAGE / "node_modules" / ".bin" / "tsc"


def compiler() -> Path:
    """Installed where it is missing, once: several processes may ask at the same time."""
    here = os.open(PACKAGE, os.O_RDONLY)
    try:
        fcntl.flock(here, fcntl.LOCK_EX)
        if not _TSC.exists():
            npm = ["npm", "ci", "--no-audit", "--no-fund"]
            done = subprocess.run(npm, cwd=PACKAGE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert done.returncode == 0, done.stdout
    finally:
        os.close(here)
    return _TSC
