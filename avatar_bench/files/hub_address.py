"""Addresses of repositories on the Hugging Face hub: hf:OWNER/NAME, or hf:OWNER/NAME@REVISION."""

from __future__ import annotations

import re

from avatar_bench.errors import ConfigError

HUB = "hf:"
_NAME = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


def is_hub_address(text: str) -> bool:
    """Return whether a text is meant as an address of the hub."""
    return text.startswith(HUB)


def parse_hub_address(text: str, option: str) -> tuple[str, str | None]:
    """Return the repository of an address and its revision, None without one; raise ConfigError for another text."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option}={text}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION.")
    return match[1], match[2]
