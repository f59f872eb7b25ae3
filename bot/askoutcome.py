"""How an ask ended, in a line: who decided what. Pure."""

from __future__ import annotations

from collections.abc import Callable

from bot.below import person
from bot.markdown import clip
from bot.plaintext import flat, short, visible
from sessions.asks import Ask, AskKind, AskState

_NOTE_ROOM = 600
_ANSWERS = 5  # of several, that are repeated


def outcome(ask: Ask) -> str:
    """mrkdwn: who decided what; withdrawn and expired say so."""
    match ask.state:
        case AskState.OPEN:
            return "Nobody has answered yet."
        case AskState.WITHDRAWN:
            return "■ Withdrawn: Claude does not wait for an answer any more."
        case AskState.EXPIRED:
            return "⌛ Expired: nobody answered in time."
    who = person(ask.decided_by) if ask.decided_by else "Somebody"
    return _OUTCOMES[ask.kind](ask, who)


def _said(ask: Ask) -> str:
    message = flat(ask.decision.message) if ask.decision else ""
    return f": {clip(message, _NOTE_ROOM)}" if message else "."


def _permission_outcome(ask: Ask, who: str) -> str:
    if ask.state is AskState.DENIED:
        return f"✗ {who} denied it{_said(ask)}"
    match ask.decision.scope if ask.decision else "once":
        case "session":
            return f"✓ {who} allowed it for this session: {listed(ask.suggestions) or 'the tool'}."
        case "channel":
            return f"✓ {who} allowed it for this channel from now on: {listed(ask.suggestions) or 'the tool'}."
    return f"✓ {who} allowed it once."


def _question_outcome(ask: Ask, who: str) -> str:
    if ask.state is AskState.DENIED:
        return f"✗ {who} did not answer{_said(ask)}"
    answers = list((ask.decision.answers if ask.decision else {}).items())
    if len(answers) == 1:
        return f"✓ {who} answered: {clip(flat(answers[0][1]), _NOTE_ROOM)}"
    lines = [f"• {clip(flat(asked), 120)} {clip(flat(answer), 250)}" for asked, answer in answers[:_ANSWERS]]
    return "\n".join([f"✓ {who} answered:", *lines])


def _plan_outcome(ask: Ask, who: str) -> str:
    if ask.state is AskState.DENIED:
        return f"↻ {who} wants Claude to keep planning{_said(ask)}"
    edits = ask.decision is not None and ask.decision.mode == "acceptEdits"
    return f"✓ {who} approved the plan{', and edits need no further yes' if edits else ''}."


def _budget_outcome(ask: Ask, who: str) -> str:
    return f"■ {who} stopped here." if ask.state is AskState.DENIED else f"✓ {who} lets it continue{more(ask)}."


def _egress_outcome(ask: Ask, who: str) -> str:
    host = f"`{clip(flat(host_of(ask)), 300)}`"
    if ask.state is AskState.DENIED:
        return f"✗ {who} does not let this session reach {host}."
    match ask.decision.scope if ask.decision else "once":
        case "session":
            return f"✓ {who} lets this session reach {host}."
        case "channel":
            return f"✓ {who} lets every session in this channel reach {host} from now on."
    return f"✓ {who} lets Claude reach {host} until this answer is finished."


def host_of(ask: Ask) -> str:
    """Of the kind EGRESS: "example.org:443"."""
    return f"{ask.input.get('host')}:{ask.input.get('port')}".replace("`", "'")


def listed(rules: tuple[str, ...]) -> str:
    """mrkdwn."""
    shown = ", ".join(f"`{clip(flat(visible(rule)).replace('`', chr(39)), 150)}`" for rule in rules[:3])
    return shown + (f" and {len(rules) - 3} more" if len(rules) > 3 else "")


def more(ask: Ask) -> str:
    """By how much a budget is to grow, for after "Continue"; nothing if the ask does not say it."""
    amount = ask.input.get("more")
    if isinstance(amount, int | float) and not isinstance(amount, bool):
        return f" with ${amount:.2f} more".replace(".00 ", " ") if abs(amount) < 1e9 else ""
    return f" with {short(str(amount), 40)} more" if amount else ""


_OUTCOMES: dict[AskKind, Callable[[Ask, str], str]] = {
    AskKind.PERMISSION: _permission_outcome,
    AskKind.QUESTION: _question_outcome,
    AskKind.PLAN: _plan_outcome,
    AskKind.BUDGET: _budget_outcome,
    AskKind.EGRESS: _egress_outcome,
}
