"""What of a Flow still runs, or lies about. `instance` as in its instance.json."""

from __future__ import annotations

from pathlib import Path

from dockerlists import listed


def containers(instance: str) -> list[str]:
    """Name and status of each container, running or not."""
    return listed("ps", "-a", "--filter", f"label=flow.instance={instance}", "--format", "{{.Names}} {{.Status}}")


def volumes(instance: str, share_dir: Path, runtime: str) -> list[str]:
    """Worklets that have one."""
    if runtime != "docker":
        return [path.parent.name for path in share_dir.glob("worklets/*/work")]
    names = listed("volume", "ls", "-q", "--filter", f"label=flow.instance={instance}")
    return [name.removeprefix(f"flow-{instance}-") for name in names]


def processes(instance: str) -> dict[int, str]:
    """Living processes whose environment carries a worklet's mark: id and command line."""
    mark, found = f"WORKLET_ID={instance}-".encode(), {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            carries = any(item.startswith(mark) for item in (path / "environ").read_bytes().split(b"\0"))
            state = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if carries and state not in "ZX":
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(path.name)] = command.decode(errors="replace")[:80]
        except OSError:  # it has ended meanwhile
            continue
    return found
