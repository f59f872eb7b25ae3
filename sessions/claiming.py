"""A worklet that stands ready becomes a new session's, where one of the pool's will do."""

from __future__ import annotations

from config.logging import get_logger
from sessions.leases import Lease
from sessions.shared import Shared
from sessions.templates import TemplateConfig, TemplateError
from sessions.templatestore import TemplateStore
from sessions.types import Session

log = get_logger(__name__)


async def claim(shared: Shared, lease: Lease, session: Session) -> Session | None:
    """The session with a worklet that stood ready. None: there is none, or it needs one of its own making.

    A repository is cloned into a volume before its worklet runs, a fork begins with a copy of one, and a template
    may name another image.
    """
    pool, own = shared.pool, (session.repository, session.fork_of, session.startup_script)
    if pool is None or own != (None, None, None):
        return None
    template = await _template(shared, session)
    if template is None or template.image is not None:
        return None
    memory = template.resources.memory if template.resources is not None else None
    return await shared.stored(lambda: pool.claim(lease, memory))


async def _template(shared: Shared, session: Session) -> TemplateConfig | None:
    """What the session's says, an empty one where it has none; None: it cannot be read, as its start will tell."""
    templates = TemplateStore(shared.store.db)
    if session.template is None:
        return TemplateConfig()
    try:
        return await shared.stored(lambda: templates.config_of(session.id)) or TemplateConfig()
    except TemplateError as error:
        log.debug("a template cannot be read", error=error.sentence())
        return None
