"""The relay's memory holds the token: it is closed before anything is started that could read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from worklets.relay import relay

RELAY = Path(relay.__file__)


def test_the_relay_is_hidden_before_anything_is_started(tmp_path: Path) -> None:
    spec = {"command": ["/bin/true"], "env": {}, "token": "t", "cwd": str(tmp_path), "home": str(tmp_path)}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    run = (
        "import ctypes, runpy, sys\nclass Started(Exception): pass\n"
        "def started(event, _):\n"
        "    if event == 'subprocess.Popen': raise Started(ctypes.CDLL(None).prctl(3))\n"  # PR_GET_DUMPABLE
        f"sys.addaudithook(started)\nsys.argv = ['relay.py', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(RELAY)!r}, run_name='__main__')"
    )
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False, timeout=60)
    assert said.stderr.strip().endswith("Started: 0"), said.stderr
