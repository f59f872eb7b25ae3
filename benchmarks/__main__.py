"""`python -m benchmarks [--quick] [FIGURE …]`: measures, then prints one table."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging

from benchmarks.harness import Row, machine, say, table
from config.logging import configure

FIGURES = (
    "start", "restart", "ack", "first", "starts", "staleness", "cpu", "masking", "memory", "sweep", "relay", "gateway",
    "repository",
    "egress", "kv",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures; see docs/benchmarks.md.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; all of them if none")
    parser.add_argument("--quick", action="store_true", help="one short run each: shows that it works, no figures")
    args = parser.parse_args()
    if unknown := set(args.figures) - set(FIGURES):
        parser.error(f"there is no figure {', '.join(sorted(unknown))}; choose of {', '.join(FIGURES)}")
    configure("console", debug=False)
    logging.getLogger().setLevel(logging.WARNING)
    rows: list[Row] = []
    for name in args.figures or FIGURES:
        say(f"— {name}")
        rows += asyncio.run(importlib.import_module(f"benchmarks.{name}").measure(args.quick))
    print(f"{machine()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
