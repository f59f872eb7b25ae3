"""What a worklet is told of its session when it starts: whose it is, and its environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sessions.types import Session
from worklets.claude import FORK_OF
from worklets.git import without_password, work_branch
from worklets.profile import Origin


def origin_of(session: Session) -> Origin:
    """Whose worklet the session's is."""
    return Origin(
        session.id, session.user_id, session.thread.channel, session.repository, session.branch, session.template,
        session.startup_script, work_branch(session.name, session.id) if session.repository else None,
        forked=session.fork_of is not None,
    )  # fmt: skip


def environment_of(session: Session, env: Mapping[str, str]) -> dict[str, str]:
    """The worklet's environment: `env`, and what the session adds to it."""
    repository = without_password(session.repository) if session.repository else None
    # A fork that was begun anew has another conversation than its first, and nothing of its origin's.
    origin = session.fork_of if session.claude_session_id == session.id else None
    given = {"GIT_REPO": repository, "GIT_BRANCH": session.branch, FORK_OF: origin}
    return {**env, **{name: value for name, value in given.items() if value}}
