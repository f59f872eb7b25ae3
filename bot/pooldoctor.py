"""What `flow doctor` says of the worklets that stand ready: whether the machine has the memory for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding
from config.units import format_size
from worklets.pool import SPARE_MEMORY, free_memory

if TYPE_CHECKING:
    from config.settings import Settings

_EACH = 150 << 20  # bytes of an idle Claude, its relay and its container (docs/benchmarks.md), and some


def pool(settings: Settings, free: Callable[[], int | None] = free_memory) -> Finding:
    least, most = settings.pool.size
    if most == 0:
        return Finding("ok", "none stands ready (FLOW_POOL_SIZE=0): new threads wait for a container")
    text = f"{least} to {most} stand ready" if least < most else f"{most} stand ready"
    available = free()
    if available is not None and available < SPARE_MEMORY + most * _EACH:
        return Finding(
            "warn",
            f"{text}, and {format_size(available)} of memory are free; they may want {format_size(most * _EACH)}",
            "Lower FLOW_POOL_SIZE, or give the machine more memory; with less than 1 GB free no more are made.",
        )
    return Finding("ok", text)
