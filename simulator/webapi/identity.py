"""Who am I, and where do I connect: auth.test, apps.connections.open, api.test, team.info."""

from typing import Any

from simulator.webapi.call import Call, method

Json = dict[str, Any]


@method("api.test", caller="anyone")
async def api_test(call: Call) -> Json:
    return {"args": {key: value for key, value in call.args.items() if key != "token"}}


@method("auth.test")
async def auth_test(call: Call) -> Json:
    workspace, app = call.core.workspace, call.app
    return {
        "url": f"{call.core.base_url}/",
        "team": workspace.name,
        "user": app.bot.name,
        "team_id": workspace.team_id,
        "user_id": app.bot.id,
        "bot_id": app.bot.bot_id,
        "is_enterprise_install": False,
    }


@method("apps.connections.open", caller="app")
async def connections_open(call: Call) -> Json:
    ticket = call.core.sockets.issue_ticket(call.app)
    return {"url": f"{call.core.socket_url}/link/?ticket={ticket}&app_id={call.app.id}"}


@method("team.info")
async def team_info(call: Call) -> Json:
    workspace = call.core.workspace
    team = {"id": workspace.team_id, "name": workspace.name, "domain": workspace.domain, "icon": {}}
    return {"team": team}
