"""`flow container …`: a repository's .claude/container.yaml, looked at where it is written."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import FlowError

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.containeryaml import ContainerConfig

NO_FILE = 3


def add_verbs(verbs: argparse.ArgumentParser) -> None:
    actions = verbs.add_subparsers(required=True, metavar="ACTION", dest="action")
    text = "say what is wrong in it, and what of it this Flow's settings do not give"
    check = actions.add_parser("check", help=text, description=text[0].upper() + text[1:] + ".")
    check.add_argument("path", nargs="?", default=".", type=Path, metavar="PATH", help="the file, or the repository")
    schema = "print a JSON schema of it, for editors"
    actions.add_parser("schema", help=schema, description=schema[0].upper() + schema[1:] + ".")


def container(args: argparse.Namespace, settings: Settings) -> int:
    """0: it can be used; 1: it cannot, each fault is on a line of stderr; 3: there is no file. Raises FlowError."""
    from worklets.containerkeys import PLACE, json_schema
    from worklets.containeryaml import parse

    if args.action == "schema":
        print(json.dumps(json_schema(), indent=2))
        return 0
    path = args.path / PLACE if args.path.is_dir() else args.path
    try:
        data, fault = _read(args.path)
    except OSError as error:
        raise FlowError(f"{path} cannot be read: {error.strerror or error}.") from error
    if data is None:
        print(fault or f"{path}: there is no such file.", file=sys.stderr)
        return 1 if fault else NO_FILE
    config, faults = parse(data, str(path))
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        return 1
    for key, note in _notes(config, settings):
        line, column = config.lines[key]
        print(f"{path}:{line}:{column}: {note}")
    print(f"{path}: in order.")
    return 0


def _read(path: Path) -> tuple[bytes | None, str | None]:
    """The file's bytes, of a repository as a worklet's start reads them; with none, why that start would fail.

    Raises OSError, FlowError.
    """
    from worklets.containerprofile import misnamed, read_file
    from worklets.yamltree import LONGEST

    if path.is_dir():
        data = read_file(path)
        return data, misnamed(path) if data is None else None
    try:
        with path.open("rb") as file:
            return file.read(LONGEST + 1), None
    except FileNotFoundError:
        return None, None


def _notes(config: ContainerConfig, settings: Settings) -> tuple[tuple[str, str], ...]:
    from bot.core import allowed_by
    from worklets.baseimages import is_allowed, refusal
    from worklets.containerprofile import held_to

    notes, base = held_to(config, allowed_by(settings)).notes, config.base_image
    if base is None or is_allowed(base, settings.images.bases):
        return notes
    return ("baseImage", refusal(base)), *notes
