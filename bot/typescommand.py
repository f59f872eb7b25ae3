"""`flow types`: the key-value store's schema as typed models; docs/kvstore.md."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from config.errors import FlowError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lang", choices=("python", "typescript"), default="python", help="python by default")
    parser.add_argument("--output", type=Path, metavar="FILE", help="instead of stdout")
    parser.add_argument(
        "--dsn", metavar="postgresql://…", help="as this database has it; else as this version's migrations do"
    )


def write_types(args: argparse.Namespace) -> int:
    """Raises FlowError."""
    from bot import kvtypes
    from migrations.kvschema import from_database, from_files

    schema = asyncio.run(from_database(args.dsn)) if args.dsn else from_files()
    text = kvtypes.python(schema) if args.lang == "python" else kvtypes.typescript(schema)
    if args.output is None:
        print(text, end="")
        return 0
    try:
        args.output.write_text(text, encoding="utf-8")
    except OSError as e:
        raise FlowError(f"{args.output} cannot be written: {e.strerror}.") from e
    print(f"wrote {args.output}")
    return 0
