"""The files of a message as values. Pure. File objects are those of docs.slack.dev ("File object")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessions.types import Attached


def attached(files: Sequence[Mapping[str, Any]]) -> tuple[Attached, ...]:
    """The files of a message; those that were deleted meanwhile are none. Pure."""
    return tuple(_attached(file) for file in files if file.get("id") and file.get("mode") != "tombstone")


def _attached(file: Mapping[str, Any]) -> Attached:
    # One from a Slack Connect channel comes as an id alone: `file_access: check_file_info`.
    address = str(file.get("url_private_download") or file.get("url_private") or "")
    size = file.get("size")
    return Attached(
        str(file["id"]),
        str(file.get("name") or file.get("title") or "file"),
        str(file.get("mimetype") or ""),
        size if isinstance(size, int) else 0,
        "" if file.get("is_external") else address,
    )


def named(files: Sequence[Mapping[str, Any]]) -> str:
    """Their names, for a reader; empty for none."""
    there = (file for file in files if file.get("mode") != "tombstone")
    return ", ".join(str(file.get("name") or file.get("title") or "a file") for file in there)
