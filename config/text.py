"""Text that any encoder takes."""

from __future__ import annotations

import re

_LONE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """With U+FFFD for each lone surrogate, which JSON escapes can spell and UTF-8 cannot (an emoji cut in two)."""
    return text if text.isascii() else _LONE.sub("\ufffd", text)
