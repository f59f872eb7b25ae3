"""What Claude asks people, as messages: permissions, questions, plans, budgets. Pure.

All that comes from Claude is foreign: commands and diffs stand in preformatted rich text, in which Slack parses
nothing; a plan goes through `render`; the rest is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from bot.askoutcome import host_of, listed, more, outcome
from bot.asksubject import Option, Question, Subject, headline, questions, subject
from bot.markdown import clean, clip, render
from bot.parts import Block, actions, button, context, fallback, section
from bot.plaintext import clip_code, flat, plain_text, preformatted, short, units
from bot.textcuts import cut
from sessions.asks import Ask, AskKind

# Action ids of the buttons; the value of each is the ask's id, of a choice also its number.
ALLOW_ONCE, ALLOW_SESSION, ALLOW_CHANNEL = "ask_allow_once", "ask_allow_session", "ask_allow_channel"
DENY, DENY_WHY, SHOW_ALL = "ask_deny", "ask_deny_why", "ask_show_all"
CHOICE, PICK, SUBMIT, FORM, OWN_WORDS = "ask_choice", "ask_pick", "ask_submit", "ask_form", "ask_own_words"
APPROVE, APPROVE_EDITS, KEEP_PLANNING = "ask_approve", "ask_approve_edits", "ask_keep_planning"
MORE, ENOUGH = "ask_more", "ask_enough"
REACH_ONCE, REACH_SESSION, REACH_CHANNEL = "ask_reach_once", "ask_reach_session", "ask_reach_channel"

#: What the headline of each kind begins with.
MARKS = {
    AskKind.PERMISSION: "🔐",
    AskKind.QUESTION: "❓",
    AskKind.PLAN: "📋",
    AskKind.BUDGET: "💰",
    AskKind.EGRESS: "🌐",
}

CHOICES = 10  # of one question: Slack takes so many check boxes (docs.slack.dev, checkboxes element)
SHOWN_QUESTIONS = 5  # Claude asks four at most; their form has them all
_CODE_ROOM = 10_000  # units of a command or diff; all blocks of a message may have about 13,200
_PLAN_ROOM, _PLAN_ITEMS, _PLAN_PAGES = 10_500, 36, 6
_QUESTIONS_ROOM = 11_000  # units of all questions of a message, with what can be answered
_QUESTION_ROOM = 1_000
_ROOMS = ((200, 600), (200, 200), (200, 0), (0, 0))  # units of an option's description and preview, the fullest first
_NOTE_ROOM = 600
_LABEL = 75  # of a button, an option (docs.slack.dev)


@dataclass(frozen=True, slots=True)
class AskMessage:
    """One message of an ask: its blocks, and its text for notifications. The last one has the buttons."""

    blocks: tuple[Block, ...]
    text: str
    open: bool  # somebody may still answer it here


def ask_messages(ask: Ask) -> list[AskMessage]:
    """One message, or several of a long plan. How many depends on the ask's input only, not on its state."""
    contents = _plan(ask) if ask.kind is AskKind.PLAN else [_CONTENTS[ask.kind](ask)]
    last = len(contents) - 1
    made = []
    for number, content in enumerate(contents):
        blocks = [*content, *_below(ask)] if number == last else content
        is_open = ask.is_open and number == last
        said = content if ask.is_open and number == 0 else content[:1]  # the beginning is all that notifies
        made.append(AskMessage(tuple(blocks), fallback([_bare(said[0]), *said[1:]]), is_open))
    return made


def _bare(head: Block) -> Block:
    return section(head["text"]["text"].replace("*", ""))


def _below(ask: Ask) -> list[Block]:
    """The buttons; once it is over, one line that says how."""
    if not ask.is_open:
        return [context(outcome(ask))]
    notes = [context(note) for note in (_rules(ask), _until(ask)) if note]
    return [*notes, *_BUTTONS[ask.kind](ask)]


def _until(ask: Ask) -> str:
    if ask.expires_at is None or ask.kind is AskKind.EGRESS:  # whose connection gives up long before
        return ""
    fallback_text = ask.expires_at.strftime("%Y-%m-%d %H:%M UTC")
    return f"Open until <!date^{int(ask.expires_at.timestamp())}^{{date_short_pretty}}, {{time}}|{fallback_text}>."


# ---- permissions -------------------------------------------------------------------------------------------------


def _permission(ask: Ask) -> list[Block]:
    wants = subject(ask)
    shown = clip_code(wants.text, _CODE_ROOM)
    blocks = [section(f"{MARKS[ask.kind]} *Claude asks for permission {headline(ask)}*")]
    if wants.note:
        blocks.append(context(clip(clean(wants.note), _NOTE_ROOM)))
    if shown.strip():
        blocks.append(preformatted(shown))
    if more := len(wants.text) - len(shown):
        blocks.append(context(f"… and {more:,} more characters."))
    return blocks


def _rules(ask: Ask) -> str:
    """What the two wider yeses would allow from then on."""
    if ask.kind is not AskKind.PERMISSION or not ask.suggestions:
        return ""
    own = any(server.startswith("own:") for server in ask.servers.values())
    only = ", for the MCP server as this repository has it now" if own else ""
    return f"“For this session” and “always” allow {listed(ask.suggestions)} from then on{only}."


def _permission_buttons(ask: Ask) -> list[Block]:
    buttons = [button(ALLOW_ONCE, "Allow once", ask.id, "primary")]
    if ask.suggestions:
        buttons.append(button(ALLOW_SESSION, "Allow for this session", ask.id))
        buttons.append(button(ALLOW_CHANNEL, "Always for this channel", ask.id))
    buttons += [button(DENY, "Deny", ask.id, "danger"), button(DENY_WHY, "Deny and say why", ask.id)]
    if is_cut(subject(ask)):
        buttons.append(button(SHOW_ALL, "Show all", ask.id))
    return [actions(*buttons)]


def is_cut(wants: Subject) -> bool:
    return clip_code(wants.text, _CODE_ROOM) != wants.text


# ---- questions ---------------------------------------------------------------------------------------------------


def _question(ask: Ask) -> list[Block]:
    """As full as a message can hold; previews go first, then descriptions."""
    made: list[Block] = []
    for detail, preview in _ROOMS:
        made = _questions(ask, detail, preview)
        if sum(units(json.dumps(block, ensure_ascii=False)) for block in made) <= _QUESTIONS_ROOM:
            break
    return made


def _questions(ask: Ask, detail: int, preview: int) -> list[Block]:
    asked = questions(ask)
    mark = MARKS[ask.kind]
    if len(asked) == 1:
        choices = _options(asked[0], detail, preview, boxes=asked[0].multiple)
        return [section(f"{mark} *Claude asks:* {_asking(asked[0])}"), *choices]
    blocks = [section(f"{mark} *Claude asks {len(asked)} questions*")]
    for number, question in enumerate(asked[:SHOWN_QUESTIONS], 1):
        blocks += [section(f"*{number}.* {_asking(question)}"), *_options(question, detail, preview)]
    if len(asked) > SHOWN_QUESTIONS:
        blocks.append(context(f"… and {len(asked) - SHOWN_QUESTIONS} more in the form."))
    return blocks


def _asking(question: Question) -> str:
    return clip(clean(question.text), _QUESTION_ROOM) or "…"


def _options(question: Question, details: int, preview: int, *, boxes: bool = False) -> list[Block]:
    """What can be answered. Nothing where that is all said by the `boxes` below."""
    if not question.options or (boxes and not any(map(_is_long, question.options))):
        return []
    lines, previews = [], []
    for option in question.options[:CHOICES]:
        detail = f" – {clip(flat(option.description), details)}" if option.description and details else ""
        lines.append(f"• *{clip(flat(option.label), _LABEL).replace('*', '∗')}*{detail}")
        if option.preview and preview:
            shown = clip_code(option.preview, preview)
            previews += [context(f"{clip(flat(option.label), _LABEL)}:"), preformatted(shown)] if shown.strip() else []
    return [section("\n".join(lines)), *previews[:8]]


def _is_long(option: Option) -> bool:
    """There is more to it than a check box can say."""
    return bool(option.preview.strip()) or max(units(flat(option.label)), units(flat(option.description))) > _LABEL


def _question_buttons(ask: Ask) -> list[Block]:
    asked = questions(ask)
    own_words = button(OWN_WORDS, "Answer in my own words", ask.id)
    if len(asked) > 1:
        return [actions(button(FORM, "Answer", ask.id, "primary"))]
    (question,) = asked
    if not question.options:
        return [actions(own_words)]
    if not question.multiple:
        choices = [_choice(ask, number, question) for number in range(len(question.options[:CHOICES]))]
        return [actions(*choices, own_words)]
    boxes = {"type": "checkboxes", "action_id": PICK, "options": options_of(question)}
    picking: Block = {"type": "actions", "block_id": PICK, "elements": [boxes]}
    return [picking, actions(button(SUBMIT, "Submit", ask.id, "primary"), own_words)]


def _choice(ask: Ask, number: int, question: Question) -> Block:
    made = button(f"{CHOICE}_{number}", short(question.options[number].label, _LABEL), f"{ask.id} {number}")
    made["text"]["emoji"] = False
    return made


def options_of(question: Question) -> list[Block]:
    """Check boxes or radio buttons; the value of each is its number."""
    made = []
    for number, option in enumerate(question.options[:CHOICES]):
        one: Block = {"text": plain_text(option.label, _LABEL), "value": str(number)}
        if option.description.strip():
            one["description"] = plain_text(option.description, _LABEL)
        made.append(one)
    return made


# ---- plans -------------------------------------------------------------------------------------------------------


def _plan(ask: Ask) -> list[list[Block]]:
    texts, rest = plan_pages(subject(ask).text)
    mark, contents = MARKS[ask.kind], []
    for number, text in enumerate(texts, 1):
        name = "*Claude's plan:*" if number == 1 else f"*Claude's plan, {number} of {len(texts)}*"
        contents.append([section(f"{mark} {name}"), {"type": "markdown", "text": text}])
    if not contents:
        contents = [[section(f"{mark} *Claude wants to begin, without a plan that it has written down.*")]]
    if rest:
        contents[-1].append(context(f"… and {rest:,} more characters."))
    return contents


def plan_pages(plan: str) -> tuple[list[str], int]:
    """The plan's beginning as Markdown for a message each, and how many characters are left over."""
    pages: list[str] = []
    rest, before = clean(plan).strip(), None
    while rest.strip() and len(pages) < _PLAN_PAGES:
        found = cut(rest, _PLAN_ROOM, _PLAN_ITEMS, before)
        end, behind = (len(rest), None) if found is None else (max(1, found.end), found.measure.fence)
        if page := render(rest[:end], before, behind):
            pages.append(page)
        rest, before = rest[end:], behind
    return pages, len(rest.strip())


def _plan_buttons(ask: Ask) -> list[Block]:
    buttons = [
        button(APPROVE, "Approve", ask.id, "primary"),
        button(APPROVE_EDITS, "Approve and auto-accept edits", ask.id),
        button(KEEP_PLANNING, "Keep planning", ask.id),
    ]
    if plan_pages(subject(ask).text)[1]:
        buttons.append(button(SHOW_ALL, "Show all", ask.id))
    return [actions(*buttons)]


# ---- budgets -----------------------------------------------------------------------------------------------------


def _budget(ask: Ask) -> list[Block]:
    return [section(f"{MARKS[ask.kind]} {clip(clean(subject(ask).text), 1_500) or 'The budget is used up.'}")]


def _budget_buttons(ask: Ask) -> list[Block]:
    return [actions(button(MORE, f"Continue{more(ask)}", ask.id, "primary"), button(ENOUGH, "Stop", ask.id))]


# ---- hosts -------------------------------------------------------------------------------------------------------


def _egress(ask: Ask) -> list[Block]:
    named = f"`{clip(flat(host_of(ask)), 300)}`"
    note = (
        "A host that stores what it is sent is also a way for data to leave. *Once* is until this answer is over. The "
        "connection waits only a short while; a later answer counts for Claude's next try."
    )
    return [section(f"{MARKS[ask.kind]} *Claude wants to reach* {named}"), *([context(note)] if ask.is_open else [])]


def _egress_buttons(ask: Ask) -> list[Block]:
    return [
        actions(
            button(REACH_ONCE, "Once", ask.id, "primary"),
            button(REACH_SESSION, "For this session", ask.id),
            button(REACH_CHANNEL, "Always here", ask.id),
            button(DENY, "No", ask.id, "danger"),
        )
    ]


_CONTENTS: dict[AskKind, Callable[[Ask], list[Block]]] = {
    AskKind.PERMISSION: _permission,
    AskKind.QUESTION: _question,
    AskKind.BUDGET: _budget,
    AskKind.EGRESS: _egress,
}
_BUTTONS: dict[AskKind, Callable[[Ask], list[Block]]] = {
    AskKind.PERMISSION: _permission_buttons,
    AskKind.QUESTION: _question_buttons,
    AskKind.PLAN: _plan_buttons,
    AskKind.BUDGET: _budget_buttons,
    AskKind.EGRESS: _egress_buttons,
}
