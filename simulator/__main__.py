"""`python -m simulator`: a workspace to look at and to connect apps to."""

import argparse
import asyncio
import contextlib
import sys

from simulator.slack import SlackSimulator


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulator", description="A Slack workspace on loopback.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) picks a free one")
    parser.add_argument("--manifest", default=None, help="an app manifest; without one the app may do everything")
    parser.add_argument("--bot-token", default="", help="a fixed xoxb- token; made up when left out")
    parser.add_argument("--app-token", default="", help="a fixed xapp- token; made up when left out")
    parser.add_argument("--no-limits", action="store_true", help="no rate limits")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    slack = SlackSimulator(
        arguments.host,
        arguments.port,
        manifest=arguments.manifest,
        bot_token=arguments.bot_token,
        app_token=arguments.app_token,
        limits=None if arguments.no_limits else "real",
    )
    async with slack:
        lines = [
            f"Page             {slack.url}",
            f"SLACK_API_URL    {slack.api_url}",
            f"SLACK_BOT_TOKEN  {slack.bot_token}",
            f"SLACK_APP_TOKEN  {slack.app_token}",
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> int:
    """Runs until interrupted; 1 if the address is taken or the manifest cannot be read."""
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(_arguments()))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"The simulator cannot start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
