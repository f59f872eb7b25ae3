"""`/flow repos`, and what the modal that starts a session offers: repositories by name, startup scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.branchsearch import BranchSearch
from bot.markdown import clean, clip
from bot.parts import Block, context, section
from worklets.mirrors import Mirrors
from worklets.repositories import Repositories, Repository
from worklets.startup import Script, Scripts

_NONE = (
    "No repository has a name here yet: an administrator gives them names in `FLOW_REPOSITORIES`. Until then write its "
    "address: `/flow repo=https://host/owner/name.git <task>`."
)
_SHOWN = 50  # repositories in one message
_CHOICES = 100  # of one select


@dataclass(frozen=True, slots=True)
class Catalog:
    """What there is to choose from."""

    repositories: Repositories
    mirrors: Mirrors
    scripts: Scripts
    search: BranchSearch


def repositories_blocks(known: Sequence[Repository], scripts: Sequence[Script], unlisted: int = 0) -> list[Block]:
    """`unlisted`: repositories whose scripts are not among them."""
    everywhere = [f"`{_code(one.name)}`" for one in scripts if one.repository is None]
    told = [context(f"Startup scripts for all of them, in `/flow new`: {', '.join(everywhere)}")] if everywhere else []
    if unlisted:
        told.append(context(unlisted_scripts(unlisted)))
    if not known:
        return [section(_NONE), *told]
    lines = [_line(one, [script.name for script in scripts if script.repository == one.name]) for one in known[:_SHOWN]]
    blocks = [section("*Repositories*\n" + "\n".join(lines[at : at + 10])) for at in range(0, len(lines), 10)]
    for block in blocks[1:]:
        block["text"]["text"] = block["text"]["text"].removeprefix("*Repositories*\n")
    more = len(known) - _SHOWN
    hint = "Start with `/flow repo=<name> <task>`, or `branch=<branch>` beside it; `/flow new` lists them too."
    return [*blocks, *told, context(f"And {more} more. {hint}" if more > 0 else hint)]


def _line(one: Repository, scripts: Sequence[str]) -> str:
    at = f" at `{_code(one.branch)}`" if one.branch else ""
    told = f", startup scripts {', '.join(f'`{_code(name)}`' for name in scripts)}" if scripts else ""
    return f"• `{_code(one.name)}`: {clean(clip(one.shown, 200))}{at}{told}"


def _code(text: str) -> str:
    return clip(" ".join(text.replace("`", "'").split()), 100)


def unlisted_scripts(repositories: int) -> str:
    """For people, where scripts are listed."""
    counted = f"{repositories:,} {'repository' if repositories == 1 else 'repositories'}"
    return f"The startup scripts of {counted} are not listed: reading them took too long."


def script_choices(scripts: Sequence[Script]) -> dict[str, str]:
    """By name; one that several repositories have is there once."""
    places: dict[str, list[str]] = {}
    for one in scripts:
        places.setdefault(one.name, []).append(one.repository or "")
    told = {name: ", ".join(filter(None, where)) for name, where in places.items() if "" not in where}
    return {name: clip(f"{name} ({told[name]})" if name in told else name, 75) for name in list(places)[:_CHOICES]}
