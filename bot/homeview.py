"""The home tab as blocks. Pure. At most MOST blocks: Slack takes 100 in a home tab (docs.slack.dev, views)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot.inbound import Identity
from bot.listing import BUSY, LIVE, STATES, help_blocks, title
from bot.markdown import clean, clip
from bot.parts import Block, button, context, section
from bot.templatelist import START_FROM
from config.settings import LimitSettings
from sessions.controls import MODELS, MODES, at_least
from sessions.costs import Spending, described, dollars
from sessions.options import Level
from sessions.templates import Template
from sessions.types import Session, SessionId

MOST = 100
_AWAKE, _ASLEEP = 15, 5  # sessions shown
_TEMPLATES = 5
PREFERENCE = "preference_"  # action ids of the selects begin so, and go on with the option's name
USUAL = "usual"  # the choice of no preference

#: What can be chosen: name of the option → (what it is called, value → words).
PREFERENCES: dict[str, tuple[str, Mapping[str, str]]] = {
    "level": ("How much I show", {level.value: level.value.capitalize() for level in Level}),
    "mention": ("Mention me at the end", {"yes": "Mention me", "no": "Do not mention me"}),
    "model": ("Model", {model: model.capitalize() for model in MODELS}),
    "mode": ("Permissions", {mode: mode.capitalize() for mode in MODES}),
}


@dataclass(frozen=True, slots=True)
class Costs:
    """What was spent today and this month; `everybody` only for admins."""

    today: Spending
    month: Spending
    everybody_today: Spending | None = None
    everybody_month: Spending | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Of the set-up: `good` None for what is off."""

    name: str
    good: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Home:
    """`waiting`: sessions that wait for people. `preferences`: values by the option's name. `setup`: for admins."""

    me: Identity
    sessions: Sequence[Session]
    waiting: Collection[SessionId]
    costs: Costs
    preferences: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""
    mode: str = "auto"
    limits: LimitSettings = field(default_factory=LimitSettings)
    setup: Sequence[Part] = ()
    templates: Sequence[Template] = ()


def home_blocks(home: Home) -> list[Block]:
    parts = [
        _sessions(home),
        _templates(home.templates),
        _costs(home.costs),
        _preferences(home),
        _rules(home),
        _setup(home.setup),
        help_blocks(home.me),
    ]
    blocks: list[Block] = []
    for part in parts:
        if part:
            blocks += [*([{"type": "divider"}] if blocks else []), *part]
    return blocks[:MOST]


def _sessions(home: Home) -> list[Block]:
    waiting = [one for one in home.sessions if one.id in home.waiting]
    awake = [one for one in home.sessions if one.id not in home.waiting and one.state in (*LIVE, *BUSY)]
    asleep = [one for one in home.sessions if one not in waiting and one not in awake]
    shown = [*waiting, *awake][:_AWAKE] + asleep[:_ASLEEP]
    if not shown:
        return [section("*Your sessions*\nYou have no session yet.")]
    blocks = [section("*Your sessions*"), *(_session(one, home) for one in shown)]
    if len(shown) < len(home.sessions):
        blocks.append(context("`/flow sessions` lists more."))
    return blocks


def _templates(templates: Sequence[Template]) -> list[Block]:
    if not templates:
        return []
    blocks = [section("*Start from a template*")]
    for one in templates[:_TEMPLATES]:
        about = f"\n{clip(clean(one.description), 150)}" if one.description else ""
        blocks.append(section(f"*{one.name}*{about}") | {"accessory": button(START_FROM, "Start", one.id)})
    if len(templates) > _TEMPLATES:
        blocks.append(context("`/flow templates` lists more."))
    return blocks


def _session(session: Session, home: Home) -> Block:
    state = "🔔 *waiting for you*" if session.id in home.waiting else STATES[session.state]
    block = section(f"{title(session, home.me)}\n<#{session.thread.channel}> · {state}")
    if session.state in BUSY:
        block["accessory"] = button("stop", "Stop", session.id, "danger")
    elif session.state in LIVE:
        block["accessory"] = button("sleep", "Let it sleep", session.id)
    return block


def _costs(costs: Costs) -> list[Block]:
    lines = [f"*What it cost*\nToday {described(costs.today)} · this month {described(costs.month)}"]
    if costs.everybody_today is not None and costs.everybody_month is not None:
        today, month = described(costs.everybody_today), described(costs.everybody_month)
        lines.append(f"Everybody: today {today} · this month {month}")
    return [section("\n".join(lines))]


def _preferences(home: Home) -> list[Block]:
    """A mode that asks less than the settings want is none to prefer: that is decided thread by thread."""
    offered = {name: (label, dict(choices)) for name, (label, choices) in PREFERENCES.items()}
    label, modes = offered["mode"]
    offered["mode"] = label, {mode: words for mode, words in modes.items() if mode in at_least(home.mode)}
    chosen = home.preferences
    selects = [_select(name, label, choices, chosen.get(name)) for name, (label, choices) in offered.items()]
    return [
        section("*Your preferences*\nFor what you start from now on; a thread or channel may say otherwise."),
        {"type": "actions", "elements": selects},
    ]


def _select(name: str, label: str, choices: Mapping[str, str], value: str | None) -> Block:
    options = {USUAL: f"{label}: as usual", **{key: f"{label}: {words}" for key, words in choices.items()}}
    made = {
        key: {"text": {"type": "plain_text", "text": clip(text, 75)}, "value": key} for key, text in options.items()
    }
    return {
        "type": "static_select",
        "action_id": PREFERENCE + name,
        "options": list(made.values()),
        "initial_option": made.get(value or USUAL, made[USUAL]),
    }


def _rules(home: Home) -> list[Block]:
    where = "plain processes, without isolation" if home.runtime == "local" else f"{home.runtime} containers"
    how = {
        "auto": "without asking, inside its container",
        "ask": "asking before it changes anything",
        "plan": "after a plan that people approve",
    }.get(home.mode, home.mode)
    lines = ["*What I may do here*", f"Claude works {how}; sessions run in {where}.", _limits(home.limits)]
    return [section("\n".join(lines))]


def _limits(limits: LimitSettings) -> str:
    named = {
        "an answer": limits.turn,
        "a thread": limits.session,
        "a person's day": limits.person_day,
        "a channel's day": limits.channel_day,
        "everybody's day": limits.day,
        "everybody's month": limits.month,
    }
    told = [f"{dollars(limit)} for {what}" for what, limit in named.items() if limit is not None]
    return f"Limits: {', '.join(told)}." if told else "There are no limits on what it may cost."


def _setup(setup: Sequence[Part]) -> list[Block]:
    if not setup:
        return []
    marks = {True: "✓", False: "✗", None: "–"}
    lines = [f"{marks[part.good]} {part.name}: {clip(clean(part.text), 200)}" for part in setup[:20]]
    return [section(clip("*Set-up* (only admins see this)\n" + "\n".join(lines), 2_900))]


def refused_view(sentence: str) -> dict[str, Any]:
    return {"type": "home", "blocks": [section(sentence)]}
