"""What `flow doctor` says of Claude: its credential, the CLI of plain processes, the gateway before the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.doctorfinding import Finding

if TYPE_CHECKING:
    from config.settings import Settings


async def credential(settings: Settings) -> Finding:
    """Asks the API for one model: costs nothing, and tells whether the credential counts."""
    import aiohttp

    claude = settings.claude
    if not (claude.api_key or claude.oauth_token):
        return Finding("fail", "none", "Set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN.")
    headers = {"anthropic-version": "2023-06-01"}
    if claude.api_key:
        headers["x-api-key"] = claude.api_key.get_secret_value()
    elif claude.oauth_token:
        headers |= {
            "authorization": f"Bearer {claude.oauth_token.get_secret_value()}",
            "anthropic-beta": "oauth-2025-04-20",
        }
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15), trust_env=True) as http,
            http.get(f"{claude.base_url}/v1/models", params={"limit": "1"}, headers=headers) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as e:
        reason = str(e) or type(e).__name__
        return Finding(
            "fail", f"{claude.base_url} does not answer: {reason}", "Check ANTHROPIC_BASE_URL and the network."
        )
    if status in (401, 403):
        return Finding("fail", f"refused (HTTP {status})", "Make a new key, and set ANTHROPIC_API_KEY to it.")
    if status >= 400:
        return Finding("warn", f"set, but could not be checked (HTTP {status})")
    return Finding("ok", f"accepted by {claude.base_url}")


async def local_cli(settings: Settings) -> Finding:
    from worklets.local import bundled_claude

    if settings.worklets.runtime == "docker":
        return Finding("skip", "inside the image")
    path = bundled_claude()
    return Finding("ok", f"bundled, {path.stat().st_size // 2**20} MiB")


async def gateway(settings: Settings) -> Finding:
    from worklets.gatewaycontrol import holder

    pid = holder(settings.share_dir)
    return Finding("ok", f"runs as process {pid}") if pid else Finding("skip", "starts with `flow serve`")
