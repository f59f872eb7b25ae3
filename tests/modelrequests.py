"""What the scripted model was asked for conversations."""

from __future__ import annotations

from simulator.model import Request, ScriptedModel
from simulator.model_request import is_side_request


def in_conversation(model: ScriptedModel) -> list[Request]:
    """Without what the CLI asks for itself, which may come at any moment: as the last one, too."""
    return [one for one in model.requests if one.path == "/v1/messages" and not is_side_request(one.body)]
