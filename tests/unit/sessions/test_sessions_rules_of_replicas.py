"""Rules that are changed at one program count in the turns of another, on one PostgreSQL."""

from __future__ import annotations

import pytest
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from scripted import Process, ScriptedHost
from test_sessions_replicas import Bells, dsn, replica  # noqa: F401 - a fixture
from waiting import until

from sessions.rulestore import RuleScope
from sessions.types import Done, SessionId

pytestmark = pytest.mark.postgres

RULE = "Bash(rm *)"


def allowed(process: Process) -> list[list[str]]:
    """What the process was told that it may do, each time."""
    found = [fields["settings"]["permissions"] for name, fields in process.asked if name == "apply_flag_settings"]
    return [permissions["allow"] for permissions in found]


@pytest.mark.parametrize("scope", ["session", "channel", "workspace"])
async def test_a_rule_is_followed_and_forgotten_where_the_turn_runs(dsn: str, scope: RuleScope) -> None:  # noqa: F811
    host, bells = ScriptedHost(), Bells()
    async with replica(dsn, host, bells=bells) as one, replica(dsn, host, bells=bells) as two:
        told: list[SessionId] = []
        one.sessions.on_rules(told.append)
        asked = await one.ask("HOLD")
        process = await one.process(asked)
        scope_id = {"session": asked.session.id, "channel": "T1/C1", "workspace": "T1"}[scope]
        await two.sessions.add_rule(scope, scope_id, "allow", RULE, "U1")
        await until(lambda: allowed(process) == [[RULE]])
        await until(lambda: told == [asked.session.id])
        (rule,) = await two.sessions.rules(asked.session.id)
        await two.sessions.remove_rule(rule.id, "U1")
        await until(lambda: allowed(process) == [[RULE], []])
        await until(lambda: told == [asked.session.id] * 2)
        process.answer("done")
        assert await one.settled(asked) == Done()
        assert two.told == []
