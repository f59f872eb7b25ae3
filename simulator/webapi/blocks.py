"""blocks.validate: whether blocks, a message or a view would be accepted."""

from typing import Any

from simulator.errors import SlackError
from simulator.validation import check_blocks, check_view
from simulator.webapi.call import Call, method

Json = dict[str, Any]


@method("blocks.validate", caller="anyone")
async def validate(call: Call) -> Json:
    blocks, message, view = (call.structured(name) for name in ("blocks", "message", "view"))
    if view is not None:
        check_view(view, str(view.get("type", "modal")) if isinstance(view, dict) else "modal")
    elif isinstance(message, dict):
        check_blocks(message.get("blocks") or [])
    elif blocks is not None:
        check_blocks(blocks)
    else:
        raise SlackError("missing_argument")
    return {}
