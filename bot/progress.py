"""Long work in the terminal: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bot.engines import engine_at
from config.units import format_duration

if TYPE_CHECKING:
    from config.settings import Settings


async def build_image(settings: Settings) -> int:
    """`flow image build`: shows each step as it runs. Raises ImageMissing, RuntimeUnavailable."""
    from rich.console import Console

    from worklets.imagebuild import build

    image, started = settings.worklets.image, time.monotonic()
    console = Console(stderr=True, highlight=False)
    with console.status(f"building {image}") as status:

        def show(line: str) -> None:
            if not console.is_terminal:
                print(line, flush=True)
            elif line.startswith("Step "):
                console.print(line, markup=False)
            elif line:
                status.update(f"[dim]{_short(line)}[/dim]")

        await build(image, show, docker_host=engine_at(settings))
    print(f"built {image} in {format_duration(time.monotonic() - started)}")
    return 0


def _short(line: str) -> str:
    from rich.markup import escape

    return escape(line if len(line) <= 100 else line[:99] + "…")
