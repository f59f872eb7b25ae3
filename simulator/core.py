"""The parts of one simulated workspace, handed to every Web API method."""

from dataclasses import dataclass, field
from typing import Any

from simulator.clock import Clock
from simulator.faults import Faults
from simulator.interactions import Interactions
from simulator.limits import RateLimits
from simulator.messages import Messages
from simulator.modals import Modals
from simulator.sockets import Sockets
from simulator.state import Workspace
from simulator.tasks import Tasks


@dataclass(frozen=True, slots=True)
class ApiCall:
    """A Web API call as it was answered; `status` is 0 when the connection was broken instead. No tokens in `args`."""

    time: float
    method: str
    args: dict[str, Any]
    status: int
    response: dict[str, Any]
    app_id: str = ""
    duration: float = 0.0


@dataclass(slots=True)
class Core:
    """What the simulator consists of."""

    clock: Clock
    workspace: Workspace
    messages: Messages
    interactions: Interactions
    modals: Modals
    sockets: Sockets
    limits: RateLimits
    faults: Faults
    tasks: Tasks
    base_url: str = ""
    socket_url: str = ""
    calls: list[ApiCall] = field(default_factory=list)
