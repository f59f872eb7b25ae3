"""Prompts that name a template, with what the template says: bot/inbound.py reads the name, the store wants an id."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bot.spelling import nearest
from sessions.controls import at_least
from sessions.templates import Template, TemplateError, TemplateNotFound
from sessions.types import Prompt

if TYPE_CHECKING:
    from bot.inbound import StartFrom
    from sessions.manager import Sessions


async def from_template(sessions: Sessions, prompt: Prompt) -> Prompt:
    """The prompt as it is stored. In a thread that has a session already, the name counts for nothing.

    Raises TemplateNotFound, TemplateError in words for people, StoreUnavailable.
    """
    if prompt.template is None:
        return prompt
    session = await sessions.find(prompt.thread) if prompt.thread.thread_ts is not None else None
    if session is not None:
        # A mention comes as two events: the second one finds the session that the first one started.
        if not prompt.text and all(turn.source_id != prompt.source_id for turn in await sessions.turns(session.id)):
            raise TemplateError("This thread has a session already.", suggestion="Start a new one from the template.")
        return replace(prompt, template=None)
    template = await sessions.templates.find(prompt.template, prompt.user_id)
    if template is None:
        raise _unknown(prompt.template, await sessions.templates.list(prompt.user_id))
    own, wanted = sessions.policy.mode, sessions.options.get("mode", channel=prompt.thread.channel, user=prompt.user_id)
    return applied(prompt, template, wanted if wanted in at_least(own) else own)


async def from_word(sessions: Sessions, asked: StartFrom) -> Prompt:
    """What `/flow start <word> …` means. Raises as `from_template`; also for a slip in a template's name."""
    name = asked.prompt.template or ""
    if await sessions.templates.find(name, asked.prompt.user_id) is not None:
        return await from_template(sessions, asked.prompt)
    known = await sessions.templates.list(asked.prompt.user_id)
    if known and nearest(name, [one.name for one in known]) is not None:
        raise _unknown(name, known)
    return await from_template(sessions, asked.plain)


def applied(prompt: Prompt, template: Template, mode: str) -> Prompt:
    """What the prompt says itself goes first. `mode`: as is usual for who asks there; a template can only tighten it.

    Raises TemplateError where nothing is asked, or a branch is given without a repository.
    """
    config = template.config
    text = prompt.text or config.prompt
    if not text:
        raise TemplateError(f"Say what Claude should do: the template {template.name} has no prompt of its own.")
    repository = prompt.repository or config.repository
    branch = prompt.branch or (config.branch if prompt.repository is None else None)
    if branch and not repository:
        raise TemplateError(f"The template {template.name} has no repository, so there is no branch to choose.")
    return replace(
        prompt,
        text=text,
        repository=repository,
        branch=branch,
        model=prompt.model or config.model,
        mode=prompt.mode or (config.mode if config.mode in at_least(mode) else None),
        startup_script=prompt.startup_script or config.startup_script,
        template=template.id,
    )


def _unknown(name: str, known: list[Template]) -> TemplateNotFound:
    names = [one.name for one in known]
    near = nearest(name, names) if names else None
    if near is not None:
        return TemplateNotFound(f"There is no template called {name}; did you mean {near}?")
    return TemplateNotFound(f"There is no template called {name} that you can use.")
