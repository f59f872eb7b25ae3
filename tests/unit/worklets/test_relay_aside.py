"""A process that the agent stops between its fork and its exec holds up nobody but the thread that starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RELAY = Path(__file__).parents[3] / "worklets" / "relay"
#: SIGSTOP goes to whatever was made last, until it hits one before its exec; the loop beats all the while.
PROGRAM = """
import asyncio, os, signal, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
from aside import aside
me = os.getpid()

def children():
    return list(map(int, open(f"/proc/{me}/task/{me}/children").read().split()))

ATTACK = '''
import os, signal, sys
me = sys.argv[1]
own = open(f"/proc/{me}/cmdline").read()
while True:
    for thread in os.listdir(f"/proc/{me}/task"):
        try:
            for pid in open(f"/proc/{me}/task/{thread}/children").read().split():
                if int(pid) != os.getpid():
                    os.kill(int(pid), signal.SIGSTOP)
                    while open(f"/proc/{pid}/stat").read().rsplit(")")[-1].split()[0] not in "TZX":
                        pass  # a call that it is in ends first: its exec, say
                    if open(f"/proc/{pid}/cmdline").read() == own:
                        print(pid, flush=True)
                        sys.exit()
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass
'''

async def main():
    attack = subprocess.Popen([sys.executable, "-c", ATTACK, str(me)], stdout=subprocess.PIPE)
    while attack.poll() is None:
        try:
            await aside(lambda: subprocess.run(["/bin/true"]), 1)
        except TimeoutError:
            pass
    hung = int(attack.stdout.read())
    print("the loop goes on", flush=True)
    os.kill(hung, signal.SIGKILL)
    os.kill(hung, signal.SIGCONT)

asyncio.run(main())
"""


def test_a_process_stopped_before_its_exec_stops_no_loop() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(RELAY)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr) == ("the loop goes on\n", "")
