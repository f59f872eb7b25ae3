"""What `flow doctor` says of the machine: its system, and limits of the kernel and the engine that many worklets meet
first.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.enginelimits import NetworkUse

SYSCTL = Path("/proc/sys")
_EACH = 60  # processes and threads of a worklet at work: shim, init, relay, the CLI, and a build
_OTHERS = 4_096  # of everything else on the machine
_INSTANCES, _WATCHES = 1_024, 262_144
_NEAR = 0.8


def system(_: Settings) -> Finding:
    text = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    if platform.system() != "Linux":
        return Finding("fail", text, "Run Flow on Linux: worklets are reached over Unix sockets in shared directories.")
    return Finding("ok", text)


def git(_: Settings) -> Finding:
    if shutil.which("git") is None:
        return Finding("warn", "not found", "Install git if people are to write repo=….")
    return Finding("ok", "found")


def watchers(sysctl: Path = SYSCTL) -> Finding:
    """Each Claude CLI takes an inotify instance, and so does each watcher of files in it: counted per user, and all
    worklets are one user.
    """
    instances = _number(sysctl / "fs/inotify/max_user_instances")
    watches = _number(sysctl / "fs/inotify/max_user_watches")
    if instances is None or watches is None:
        return Finding("skip", "not known here")
    found = f"{instances:,} watchers and {watches:,} watched files for all worklets together"
    wanted = []
    if instances < _INSTANCES:
        wanted.append("fs.inotify.max_user_instances=8192")
    if watches < _WATCHES:
        wanted.append("fs.inotify.max_user_watches=1048576")
    if wanted:
        return Finding("warn", f"at most {found}", f"`sysctl {' '.join(wanted)}`, and in /etc/sysctl.d to keep it.")
    return Finding("ok", found)


def processes(settings: Settings, sysctl: Path = SYSCTL) -> Finding:
    """Whether the machine has numbers for as many processes and threads as its worklets may have."""
    limits = {name: _number(sysctl / "kernel" / name) for name in ("pid_max", "threads-max")}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    if not known:
        return Finding("skip", "not known here")
    sessions = settings.sessions.max_sessions
    name, least = min(known.items(), key=lambda one: one[1])
    needed = sessions * _EACH + _OTHERS
    text = f"at most {least:,} processes and threads on this machine"
    if least < needed:
        wanted = "kernel.pid_max=4194304" if name == "pid_max" else f"kernel.threads-max={4 * needed}"
        return Finding(
            "warn",
            f"{text}; {sessions} worklets (FLOW_MAX_SESSIONS) may want {needed:,}",
            f"`sysctl {wanted}`, and in /etc/sysctl.d to keep it; or lower FLOW_MAX_SESSIONS.",
        )
    return Finding("ok", text)


def networks(use: NetworkUse) -> Finding:
    """Worklets have no network. The building of images has, and whatever else this engine runs."""
    text = f"{use.networks} of about {use.capacity} networks, {use.fullest} of 1,023 containers on one bridge"
    advice = []
    if use.networks >= _NEAR * use.capacity:
        advice.append(
            "Remove unused networks with `docker network prune`, or give the engine more addresses: "
            "default-address-pools with size 28 in its daemon.json. Images are built on its bridge."
        )
    if use.fullest >= _NEAR * 1_023:
        advice.append(
            f"Spread the containers of the network {use.fullest_name} over several: a bridge has 1,023 ports."
        )
    return Finding("warn", text, " ".join(advice)) if advice else Finding("ok", text)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
