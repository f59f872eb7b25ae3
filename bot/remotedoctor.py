"""What `flow doctor` says of an engine on another machine: certificates, version, clock, image, and whether the gate
can be reached.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding
from bot.engines import gate_reach
from worklets.errors import ImageMissing
from worklets.gateaddress import known

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.remote import RemoteRuntime

LOWEST = (1, 41)  # of the Engine API: Docker 20.10
_SKEW = 60.0  # seconds; certificates and tokens are judged by clocks


async def engine(settings: Settings, runtime: RemoteRuntime) -> Finding:
    """`runtime` is closed by whoever made it. Raises WorkletError for an engine, or a gate, that cannot be reached."""
    state = await runtime.state()
    api = tuple(int(part) for part in state.api.split("."))
    if api < LOWEST:
        return Finding(
            "fail", f"the engine speaks API {state.api}, and Flow needs 1.41", "Install Docker 20.10 or newer there."
        )
    skew = (state.clock - datetime.now(state.clock.tzinfo)).total_seconds()
    if abs(skew) > _SKEW:
        direction = "ahead of" if skew > 0 else "behind"
        return Finding("warn", f"its clock is {abs(skew):.0f} s {direction} this machine's", "Let NTP set both clocks.")
    try:
        await runtime.check()
    except ImageMissing:
        said = f"{state.name}, API {state.api}; its gate is not tried: the worklet image is missing there"
        return Finding("warn", said, "Build it with `flow image build`.")
    reach = gate_reach(settings)
    assert reach is not None
    found = await asyncio.to_thread(known, settings.share_dir)
    at = f"{found.host}:{found.port}" if found is not None else "no address"
    said = f"{state.name}, API {state.api}; the gate answers at {at}"
    if at != f"{reach.host}:{reach.port}":
        wanted = f"Flow's bot brings one at {reach.host}:{reach.port}, as is set, when it is started anew."
        return Finding("warn", said, wanted)
    return Finding("ok", said)
