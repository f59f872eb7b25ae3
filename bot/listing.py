"""What Flow says privately: help, its status, a person's sessions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bot.inbound import Identity
from bot.markdown import clean, clip
from bot.parts import Block, button, context, section
from sessions.types import Session, SessionState

_SHOWN = 15  # sessions in one list
CHOOSE = "stop_one"  # action id in the list that asks which one

STATES = {
    SessionState.NEW: "new",
    SessionState.WAITING: "waiting for a place",
    SessionState.STARTING: "starting",
    SessionState.IDLE: "idle",
    SessionState.WORKING: "working",
    SessionState.ASLEEP: "asleep",
}
BUSY = (SessionState.NEW, SessionState.WAITING, SessionState.STARTING, SessionState.WORKING)  # something to stop
LIVE = (SessionState.WAITING, SessionState.STARTING, SessionState.IDLE, SessionState.WORKING)


def help_text(me: Identity) -> str:
    """mrkdwn."""
    name = clip(clean(me.bot_name), 80)
    return (
        "*I am Claude Code in Slack: each thread is a session of its own, in its own container.*\n"
        f"• `/flow <what to do>` opens a thread and starts. So does mentioning @{name}, in a thread or out of one.\n"
        "• Reply in the thread to go on, mention or not. In a direct message every message counts.\n"
        "• `repo=<url>` and `branch=<name>` in the first message bring a repository along.\n"
        "• `/flow templates` lists what sessions can be started from; `/flow start <template> <what to do>`, or "
        "`template=<name>` at the beginning of a message, starts from one. `/flow template new` makes one.\n"
        "• `/flow quiet`, `/flow normal` and `/flow verbose` set how much of my work this channel sees.\n"
        "• `/flow new` asks for the repository, branch, model and mode first. "
        "*Ask Flow about this*, in a message's menu, brings that message along.\n"
        f"• In a thread, `@{name} help` lists what can be set there: model, mode, cost, fork and more.\n"
        "• `/flow sessions` lists your threads, `/flow status` says how I am.\n"
        "• `/flow repos` lists the repositories that have names: `/flow repo=<name> <task>` starts with one.\n"
        "• `/flow egress` lists the hosts that people let my containers reach from this channel, and takes it back.\n"
        "• `/flow rules` lists what people let Claude do without asking in this channel, and takes it back.\n"
        "• To stop me, press *Stop*, write `stop` in the thread, react with :octagonal_sign:, "
        "or type `/flow stop` in the channel (`/flow stop all` ends all that works for you). "
        "What is written stays, and you can go on.\n"
        "• What you write while I work waits its turn: press *Now* to have it done at once, or edit or delete it.\n"
        "• A reply that begins with somebody else's name is for them; I only take note.\n"
        "After a while of silence a session falls asleep; your next reply wakes it where it stood."
    )


def thread_help(me: Identity) -> str:
    """mrkdwn: what can be written in a thread, after the mention."""
    name = clip(clean(me.bot_name), 80)
    return (
        f"*In a thread, write one of these after @{name}, and nothing else:*\n"
        "• `model opus`, `model sonnet`, `model haiku`: who answers from now on\n"
        "• `mode plan`, `mode ask`, `mode auto`: make a plan first, ask before changes, or work without asking\n"
        "• `quiet`, `normal`, `verbose`: how much of my work this thread shows\n"
        "• `cost` and `context`: what was spent here, and how full my memory is (only you see the answer)\n"
        "• `compact`, `clear`: shorten what I remember of this thread, or forget it; the workspace stays\n"
        "• `egress`: hosts that people let my container reach, or not, and taking that back (only you see it)\n"
        "• `rules`: what Claude may do here without asking, and taking that back (only you see it)\n"
        "• `fork`: a new thread that goes on from here, with a copy of the workspace\n"
        "• `share #channel`: posts my last answer there\n"
        "• `stop`: ends what I do here\n"
        "Claude Code's own commands work too, such as `/compact focus on the tests` or `/review`.\n"
        "Anything else, a slip of the finger too, is for Claude. `/flow help` tells the rest."
    )


def help_blocks(me: Identity) -> list[Block]:
    return [section(help_text(me))]


def status_text(sessions: Iterable[Session], version: str, runtime: str) -> str:
    """mrkdwn: how many sessions do what."""
    states = [session.state for session in sessions]
    awake = sum(state in LIVE and state is not SessionState.WAITING for state in states)
    waiting = states.count(SessionState.WAITING)
    working, idle = states.count(SessionState.WORKING), states.count(SessionState.IDLE)
    asleep = states.count(SessionState.ASLEEP)
    return (
        f"Sessions: {awake} awake ({working} working, {idle} idle), {waiting} waiting for a place, {asleep} asleep.\n"
        f"Flow {version}, worklets run on {runtime}."
    )


def link(session: Session, me: Identity) -> str | None:
    """The permalink of the thread, in the form that chat.getPermalink answers; None before it is opened."""
    thread = session.thread
    if thread.thread_ts is None or not me.url:
        return None
    return f"{me.url.rstrip('/')}/archives/{thread.channel}/p{thread.thread_ts.replace('.', '')}"


def title(session: Session, me: Identity) -> str:
    """mrkdwn: the session's name, a link where there is a thread."""
    name = clip(clean(session.name).replace("|", "/").replace("\n", " "), 150) or "(no name)"
    address = link(session, me)
    return f"<{address}|{name}>" if address else name


def sessions_blocks(
    sessions: Sequence[Session], me: Identity, heading: str, empty: str, *, choose: bool = False, whose: bool = False
) -> list[Block]:
    """A line for each session, with a button where something works or is awake.

    `choose`: for a list that asks which one to stop; it is replaced once somebody chose. `whose`: tells who began it.
    """
    if not sessions:
        return [section(empty)]
    blocks = [section(heading)]
    for session in sessions[:_SHOWN]:
        facts = f"<#{session.thread.channel}> · {STATES[session.state]} · {_begun(session)}"
        facts += f" by <@{session.user_id}>" if whose else ""
        block = section(f"{title(session, me)}\n{facts}")
        if session.state in BUSY:
            block["accessory"] = button(CHOOSE if choose else "stop", "Stop", session.id, "danger")
        elif session.state in LIVE:
            block["accessory"] = button("sleep", "Let it sleep", session.id)
        blocks.append(block)
    if len(sessions) > _SHOWN:
        blocks.append(context("Older ones are left out."))
    return blocks


def _begun(session: Session) -> str:
    """In the reader's own time, as Slack shows it."""
    at = session.created_at
    return f"<!date^{int(at.timestamp())}^begun {{date_short_pretty}}, {{time}}|begun {at:%Y-%m-%d %H:%M} UTC>"
