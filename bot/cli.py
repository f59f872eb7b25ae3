"""The `flow` command. Each subcommand imports what it needs when it runs: `flow --help` stays quick."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from typing import TYPE_CHECKING

from bot.sessionarg import naming
from config.errors import FlowError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from config.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand. Returns the exit code: 0 done, 1 a sentence on stderr said why not, 2 wrong usage."""
    args = _parser().parse_args(argv)
    try:
        from config.settings import load

        code: int = args.run(args, load())
    except FlowError as e:
        print(f"flow: {e.sentence()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


class _Version(argparse.Action):
    """Looked up only when it is asked for: reading a package's metadata takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_args: object, **_options: object) -> None:
        from importlib.metadata import version

        print(f"flow {version('flow-slack')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flow", description="Slack threads that talk to Claude Code in containers.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _verb(verbs, "serve", _serve, "the bot, its scheduler and its HTTP server, until Ctrl-C")
    _verb(verbs, "demo", _demo, "the bot in a local Slack workspace, with a page to type into")
    _verb(verbs, "doctor", _doctor, "check every prerequisite and say what to do about each")
    image = verbs.add_parser("image", help="the worklet image").add_subparsers(required=True, metavar="ACTION")
    _verb(image, "build", _image_build, "build it (FLOW_IMAGE)")
    db = verbs.add_parser("db", help="the database").add_subparsers(required=True, metavar="ACTION")
    db_upgrade = _verb(db, "upgrade", _db_upgrade, "bring the schema up to date (serve does it too)")
    db_upgrade.add_argument("--kv", action="store_true", help="the key-value store's in PostgreSQL (FLOW_KV_ADMIN_DSN)")
    sessions = verbs.add_parser("sessions", help="sessions").add_subparsers(required=True, metavar="ACTION")
    listing = _verb(sessions, "list", _sessions_list, "the newest first")
    listing.add_argument("--live", action="store_true", help="only those that are awake")
    for name, run, text in (
        ("show", _sessions_show, "one session and its turns"),
        ("stop", _sessions_stop, "end its running turn and put it to sleep"),
    ):
        _verb(sessions, name, run, text).add_argument(
            "id", type=naming(), help="session id, its first letters, or its thread's link"
        )
    costs = _verb(verbs, "costs", _costs, "what was spent, by person, channel or day")
    costs.add_argument("--by", choices=("person", "channel", "day"), default="person", help="what to sum up")
    costs.add_argument("--days", type=_days, default=30, help="so many days, today included (UTC; default 30)")
    costs.add_argument("--json", action="store_true", help="as JSON, for other programs")
    from bot import workletscommand
    from bot.auditcommand import add_options as add_audit_options
    from bot.containercommand import add_verbs as add_container_verbs
    from bot.kvcommand import add_verbs
    from bot.relaycommand import add_options
    from bot.repocommand import add_verbs as add_repo_verbs
    from bot.typescommand import add_options as add_types_options

    add_audit_options(_verb(verbs, "audit", _audit, "which tools Claude used, for whom, and what let it"))
    add_container_verbs(_verb(verbs, "container", _container, "a repository's .claude/container.yaml"))
    workletscommand.add_verbs(_verb(verbs, "worklets", _worklets, "the worklets that run"))
    from bot.imagecommand import add_verbs as add_image_verbs
    from bot.templatecommand import add_verbs as add_template_verbs

    add_template_verbs(_verb(verbs, "templates", _templates, "what sessions can be started from"))
    add_image_verbs(_verb(verbs, "images", _images, "worklet images on other base images"))
    add_verbs(_verb(verbs, "kv", _kv, "a worklet's key-value store"))
    from bot.secretscommand import add_vault_verbs
    from bot.secretscommand import add_verbs as add_secrets_verbs

    add_secrets_verbs(_verb(verbs, "secrets", _secrets, "what Flow uses for people: tokens, passwords"))
    add_vault_verbs(_verb(verbs, "vault", _secrets, "the Vault that keeps them, where one is set"))
    add_repo_verbs(_verb(verbs, "repos", _repos, "the repositories that sessions can be started with"))
    add_types_options(_verb(verbs, "types", _types, "the key-value store's schema as typed models"))
    add_options(_verb(verbs, "relay", _relay, "a process that speaks lines, over WebSocket"))
    return parser


def _days(value: str) -> int:
    """Raises ArgumentTypeError."""
    if not value.isdecimal() or not 1 <= int(value) <= 36_500:
        raise argparse.ArgumentTypeError(f'"{value}" is no number of days; write it like 30')
    return int(value)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace, Settings], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _async(work: Coroutine[None, None, int]) -> int:
    return asyncio.run(work)


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    gc.disable()  # until all is up: what a start makes stays, and looking through it takes an eighth of the start
    from bot.serve import serve

    return _async(serve(settings))


def _demo(_: argparse.Namespace, settings: Settings) -> int:
    from bot.demo import demo

    return _async(demo(settings))


def _doctor(_: argparse.Namespace, settings: Settings) -> int:
    from bot.doctor import doctor

    return _async(doctor(settings))


def _costs(args: argparse.Namespace, settings: Settings) -> int:
    from bot.costscommand import show_costs

    return _async(show_costs(settings, by=args.by, days=args.days, as_json=args.json))


def _audit(args: argparse.Namespace, settings: Settings) -> int:
    from bot.auditcommand import show_audit

    return _async(show_audit(settings, args))


def _container(args: argparse.Namespace, settings: Settings) -> int:
    from bot.containercommand import container

    return container(args, settings)


def _relay(args: argparse.Namespace, settings: Settings) -> int:
    from bot.relaycommand import relay

    return relay(args, settings.relay)


def _worklets(args: argparse.Namespace, settings: Settings) -> int:
    from bot.workletscommand import worklets

    return worklets(args, settings)


def _kv(args: argparse.Namespace, settings: Settings) -> int:
    from bot.kvcommand import kv

    return kv(args, settings)


def _secrets(args: argparse.Namespace, settings: Settings) -> int:
    from bot.secretscommand import secrets

    return secrets(args, settings)


def _repos(args: argparse.Namespace, settings: Settings) -> int:
    from bot.repocommand import repos

    return repos(args, settings)


def _types(args: argparse.Namespace, _: Settings) -> int:
    from bot.typescommand import write_types

    return write_types(args)


def _templates(args: argparse.Namespace, settings: Settings) -> int:
    from bot.templatecommand import templates

    return templates(args, settings)


def _images(args: argparse.Namespace, settings: Settings) -> int:
    from bot.imagecommand import images

    return images(args, settings)


def _image_build(_: argparse.Namespace, settings: Settings) -> int:
    from bot.progress import build_image

    return _async(build_image(settings))


def _db_upgrade(args: argparse.Namespace, settings: Settings) -> int:
    from bot.admin import upgrade, upgrade_kv

    return _async(upgrade_kv(settings) if args.kv else upgrade(settings))


def _sessions_list(args: argparse.Namespace, settings: Settings) -> int:
    from bot.admin import list_sessions

    return _async(list_sessions(settings, live=args.live))


def _sessions_show(args: argparse.Namespace, settings: Settings) -> int:
    from bot.admin import show_session

    return _async(show_session(settings, args.id))


def _sessions_stop(args: argparse.Namespace, settings: Settings) -> int:
    from bot.admin import stop_session

    return _async(stop_session(settings, args.id))


if __name__ == "__main__":
    sys.exit(main())
