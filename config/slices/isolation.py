"""What a worklet may use of the machine, beside memory and processors, and what runs its container."""

from __future__ import annotations

from typing import Annotated, Literal

from config.slices.base import Bytes, Retention, Slice, at_least, setting


class IsolationSettings(Slice):
    runtime: str | None = setting(
        "FLOW_WORKLET_RUNTIME", None, "OCI runtime of worklets, e.g. runsc; unset is the engine's own."
    )
    disk: Annotated[Bytes, at_least("64m", or_none=True)] = setting(
        "FLOW_WORKLET_DISK", 10 * 1024**3, "Disk of a worklet: workspace, HOME, what Flow keeps of it; 0 is no limit."
    )
    disk_image: Literal["auto", "on", "off"] = setting(
        "FLOW_WORKLET_DISK_IMAGE", "off", "Whether the kernel holds new worklets to their disk; auto: where it can."
    )
    disk_reserve: Bytes = setting(
        "FLOW_DISK_RESERVE", 512 * 1024**2, "Free disk below which no worklet starts, e.g. 2g."
    )
    pids: int = setting("FLOW_WORKLET_PIDS", 512, "Processes and threads of a worklet.", ge=64)
    open_files: int = setting("FLOW_WORKLET_OPEN_FILES", 16384, "Open files of each process of a worklet.", ge=1024)
    log_size: Annotated[Bytes, at_least("64k")] = setting(
        "FLOW_WORKLET_LOG_SIZE", 10 * 1024**2, "Log that the engine keeps of a worklet, e.g. 10m."
    )
    sidecar_memory: Annotated[Bytes, at_least("64m")] = setting(
        "FLOW_SIDECAR_MEMORY", 512 * 1024**2, "Memory of an MCP server that runs beside a worklet, e.g. 1g."
    )
    session_work: Retention = setting(
        "FLOW_SESSION_WORK", None, "Time that all turns of a thread together may work, e.g. 8h; never: any time."
    )
