"""What Claude is told of what people decided, or did not. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection

from sessions.asks import Ask, AskKind, AskState
from sessions.askstore import StoredAsk

_LONG = 2_000  # characters of an input that is repeated

_EXPIRED = {
    AskKind.PERMISSION: "Nobody answered in time, so this request has expired. Nobody refused it.",
    AskKind.QUESTION: "Nobody answered these questions in time, so they have expired.",
    AskKind.PLAN: "Nobody decided about the plan in time, so the question has expired. Nobody refused it.",
    AskKind.BUDGET: "Nobody answered in time, so the request has expired.",
    AskKind.EGRESS: "Nobody answered in time, so the request has expired.",
}
_DENIED = {
    AskKind.PERMISSION: "People in the thread do not allow this.",
    AskKind.QUESTION: "People chose not to answer these questions.",
    AskKind.PLAN: "People do not approve of the plan yet: keep planning.",
    AskKind.BUDGET: "People do not want to spend more.",
    AskKind.EGRESS: "People do not let you reach that host.",
}


def refusal(ask: Ask) -> str:
    """What a call that was not allowed returns."""
    if ask.state is AskState.EXPIRED:
        return f"{_EXPIRED[ask.kind]} Do not try again by yourself; say in your answer what you would need."
    said = ask.decision.message.strip() if ask.decision else ""
    if ask.decided_by is None:
        return said or _DENIED[ask.kind]
    if not said:
        end = "" if ask.kind is AskKind.PLAN else " Go on without it, or say what you would have done."
        return _DENIED[ask.kind] + end
    return f"{_DENIED[ask.kind]} They say: {said}"


def reminder(asks: Collection[StoredAsk]) -> str | None:
    """For a process that took the place of one which had asked people; None: nothing was asked.

    What Flow itself asked about money and hosts, Claude need not know.
    """
    own = [one for one in asks if one.ask.kind not in (AskKind.BUDGET, AskKind.EGRESS)]
    lines = [f"- {_named(one.ask)}: {_became(one)}" for one in own if one.ask.decided_by or one.ask.decision is None]
    if not lines:
        return None
    told = "\n".join(lines)
    return (
        "[From Flow, not from a person: while you worked on the message below you had asked people, and your process "
        "ended before it heard the answer. A tool that is named here without having run has not run, whatever its "
        "result says. Where you still need one, make the very same call again: the answer below comes at once, and "
        f"nobody is asked twice. Do not repeat what is done already.\n{told}]"
    )


def _named(ask: Ask) -> str:
    match ask.kind:
        case AskKind.QUESTION:
            asked = ask.input.get("questions") or []
            return "your questions " + "; ".join(str(one.get("question", "")) for one in asked if isinstance(one, dict))
        case AskKind.PLAN:
            return "your plan"
        case _:
            given = json.dumps(ask.input, ensure_ascii=False)
            return f"{ask.tool} {given if len(given) <= _LONG else given[:_LONG] + '…'}"


def _became(one: StoredAsk) -> str:
    ask = one.ask
    if ask.state is AskState.OPEN:
        return "people have not answered yet"
    if ask.state is AskState.WITHDRAWN:
        return "taken back"
    if ask.state is AskState.ANSWERED and ask.decision is not None:
        return "; ".join(f"{question} → {answer}" for question, answer in ask.decision.answers.items())
    if ask.state is AskState.ALLOWED:
        if one.given:
            return "allowed, and you were told so"
        return "approved; carry it out" if ask.kind is AskKind.PLAN else "allowed; it has not run yet"
    return refusal(ask)
