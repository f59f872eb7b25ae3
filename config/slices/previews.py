"""Previews: servers in worklets that people can open in their browsers."""

from __future__ import annotations

import re

from pydantic import field_validator

from config.slices.base import Seconds, Slice, setting


class PreviewSettings(Slice):
    url: str = setting(
        "FLOW_PREVIEW_URL",
        "",
        "Address of previews, * for their names, e.g. https://*.preview.example.org; unset: none.",
    )
    expires: Seconds = setting(
        "FLOW_PREVIEW_EXPIRES", 43_200.0, "How long who has opened a preview may look, e.g. 12h."
    )

    @field_validator("url")
    @classmethod
    def _has_a_place_for_the_name(cls, value: str) -> str:
        """Port 0 means that of Flow's own HTTP server."""
        if value and not re.fullmatch(r"https?://\*\.[a-z0-9.-]+(:\d{1,5})?/?", value.lower()):
            raise ValueError("write it like https://*.preview.example.org; each preview is a host of its own below it")
        return value.lower().rstrip("/")

    def at(self, own: str) -> str:
        """`url` with the port of Flow's own HTTP server, whose address `own` is, in the place of 0."""
        return re.sub(r":0$", f":{own.rpartition(':')[2]}", self.url)
